-- The places that the autoscaler's rows hold, and the bounds that they obey.
alter table demand
  add column bounds_generation bigint not null default 0,
  -- {version: replicas}
  add column held jsonb not null default '{}';
