-- Who let which model be deployed. What was approved is its record's digest, which stands for all its bytes.
create table model_approval (
  source text primary key,
  record_sha256 text not null,
  approved_by text not null,
  -- False: no token was asked for, anybody on the machine could.
  authenticated boolean not null,
  approved_at timestamptz not null,
  note text not null,
  -- The catalogue's entry as it was then: shown where the model is no longer there, or lies elsewhere than in the bucket.
  entry jsonb not null
);
