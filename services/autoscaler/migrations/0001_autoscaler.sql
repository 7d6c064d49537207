-- Replicas that were ordered and are not known to be gone: the places that are taken.
create table replica (
  replica_id text primary key,
  application text not null,
  deployment text not null,
  version integer not null,
  -- 'pending': no node has room yet · 'placed': its node was told · 'draining': its node was told to end it
  stage text not null check (stage in ('pending', 'placed', 'draining')),
  node_id text check (stage = 'pending' or node_id is not null),
  -- [{index, share}]: the node's accelerators that it takes
  devices jsonb not null,
  memory_mib integer not null,
  decided_at timestamptz not null,
  staged_at timestamptz not null,
  -- Null until it was ready for the first time.
  ready_at timestamptz
);

-- What the policy remembers, and what was said last of each version.
create table deployment (
  application text not null,
  deployment text not null,
  state jsonb not null,
  said jsonb not null,
  primary key (application, deployment)
);

create table decision (
  decision_id text primary key,
  application text not null,
  deployment text not null,
  version integer not null,
  at timestamptz not null,
  replicas_before integer not null,
  replicas_wanted integer not null,
  reason text not null,
  -- Everything that went in and came out, as the policy recorded it: text, so that it stays byte for byte.
  record text not null
);
create index decision_by_time on decision (at desc);
create index decision_of_application on decision (application, at desc);

create table cold_start (
  replica_id text primary key,
  application text not null,
  deployment text not null,
  duration_ms integer not null,
  ready_at timestamptz not null
);
create index cold_start_of_deployment on cold_start (application, deployment, ready_at desc);
