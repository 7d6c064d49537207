-- One row per image reference and platform: what was asked for last, and what became of it.
create table conversion (
  image text not null,
  platform text not null,
  state text not null check (state in ('wanted', 'converting', 'ready', 'failed')),
  -- Who converts, and until when nobody else may: renewed while the work goes on, so that a killed converter's work is taken over.
  claimed_by text,
  claimed_until timestamptz,
  -- Set when ready.
  manifest_digest text,
  image_id text,
  unpacked_bytes bigint,
  stored_bytes bigint,
  uploaded_bytes bigint,
  duration_ms integer,
  -- Set when failed: code, message, remedy.
  failure jsonb,
  wanted_at timestamptz not null,
  updated_at timestamptz not null,
  primary key (image, platform)
);
create index conversion_open on conversion (wanted_at) where state in ('wanted', 'converting');
