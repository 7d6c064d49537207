// The tables behind outbox and inbox, as a migration that a service puts before its own.
import type { Migration } from "@pilotlight/store";

/** First migration of every service that publishes or consumes through its database. */
export const BUS_MIGRATION: Migration = {
  name: "0000_bus.sql",
  sql: `
    -- Messages that were committed with what they tell of, until JetStream has them.
    create table outbox (
      position bigint generated always as identity primary key,
      id text not null unique,
      subject text not null,
      headers jsonb not null,
      payload bytea not null,
      ttl_ms integer,
      created_at timestamptz not null default now()
    );
    -- IDs of messages that were processed, for as long as the server might deliver one again.
    create table inbox (
      consumer text not null,
      id text not null,
      processed_at timestamptz not null default now(),
      primary key (consumer, id)
    );
    create index inbox_processed_at on inbox (processed_at);
  `,
};
