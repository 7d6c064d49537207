-- What each application should have, and what was ordered for it last.
create table application (
  name text primary key,
  -- Null once it was deleted.
  wanted_version integer,
  -- The version that serves outside of rollouts.
  serving_version integer,
  -- Asked for since the last rollout began: a version that failed is tried again only then.
  asked_again boolean not null,
  -- A person asked for the way back: no gates.
  way_back boolean not null,
  -- When the last wish was uttered; an older one that comes late changes nothing.
  asked_at timestamptz not null,
  -- {traffic: [{version, weight}], bounds: [{version, deployment, replicasMin, replicasMax, followsLoad}]}
  orders jsonb not null,
  -- Of the last documents that were published.
  generation bigint not null
);

create table version (
  application text not null references application (name),
  version integer not null,
  -- ApplicationSpec, as it came.
  spec bytea not null,
  primary key (application, version)
);

-- What the load asks for, as the autoscaler said last.
create table demand (
  application text not null,
  deployment text not null,
  replicas integer not null,
  decided_at timestamptz not null,
  primary key (application, deployment)
);

create table rollout (
  rollout_id text primary key,
  application text not null references application (name),
  from_version integer,
  to_version integer not null,
  plan jsonb not null,
  -- Of the policy; written before anything is ordered.
  state jsonb not null,
  started_at timestamptz not null,
  ended_at timestamptz
);
create index rollout_of_application on rollout (application, started_at desc);

create table step (
  rollout_id text not null references rollout (rollout_id) on delete cascade,
  position integer generated always as identity,
  at timestamptz not null,
  phase integer not null,
  traffic double precision not null,
  reason text not null,
  primary key (rollout_id, position)
);
