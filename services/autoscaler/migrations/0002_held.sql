-- The policy remembers one thing more, and what is said includes the bounds obeyed and the places held.
update deployment set
  state = '{"perReplicaPerS": null}'::jsonb || state,
  said = '{"generation": "0", "held": {}, "versions": {}}'::jsonb;
