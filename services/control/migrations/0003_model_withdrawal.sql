-- Approvals that were taken back and not given again: nothing that starts from now on loads such a model.
create table model_withdrawal (
  source text primary key,
  withdrawn_by text not null,
  -- False: no token was asked for, anybody on the machine could.
  authenticated boolean not null,
  withdrawn_at timestamptz not null
);
