-- What teams want: applications, and their versions, which never change.
create table application (
  name text primary key,
  created_at timestamptz not null,
  -- Set when it was deleted. The row stays, so that version numbers are never given twice.
  deleted_at timestamptz,
  next_version integer not null default 1,
  -- The version that was asked for last; null when there is none to be had.
  wanted_version integer,
  -- The version that a rollout has brought to all traffic.
  serving_version integer
);

create table version (
  application text not null references application (name),
  version integer not null,
  -- The application file in its canonical form, as it was written (`bucket://` and all).
  spec jsonb not null,
  digest text not null,
  created_at timestamptz not null,
  -- When it last had all traffic.
  served_at timestamptz,
  primary key (application, version)
);

-- The read model: what the other services said, as it is shown.
create table replica (
  replica_id text primary key,
  application text not null,
  version integer not null,
  deployment text not null,
  node_id text not null,
  view jsonb not null,
  updated_at timestamptz not null,
  -- Null while it lives.
  gone_at timestamptz
);
create index replica_of_application on replica (application, updated_at desc);
create index replica_gone on replica (gone_at) where gone_at is not null;

create table rollout (
  rollout_id text primary key,
  application text not null,
  from_version integer,
  to_version integer not null,
  phase text not null,
  traffic double precision not null,
  reason text not null,
  -- [{at, phase, traffic, reason}], in order.
  steps jsonb not null,
  started_at timestamptz not null,
  moved_at timestamptz not null,
  ended_at timestamptz
);
create index rollout_of_application on rollout (application, started_at desc);

create table scale (
  application text not null,
  version integer not null,
  deployment text not null,
  replicas_wanted integer not null,
  reason text not null,
  decided_at timestamptz not null,
  primary key (application, version, deployment)
);

create table image (
  image text not null,
  platform text not null,
  view jsonb not null,
  updated_at timestamptz not null,
  primary key (image, platform)
);

create table weights (
  node_id text not null,
  source text not null,
  view jsonb not null,
  updated_at timestamptz not null,
  primary key (node_id, source)
);
