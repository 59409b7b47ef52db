-- Who is in a room, the number of its last change, and which replicas there are.
--
-- KEYS  1 members  2 seq  3 replicas  (see join.lua)
--
-- Returns {seq, snapshot, replicas}; seq is 0 for a room that has nobody.

return {
  tonumber(redis.call('GET', KEYS[2]) or '0') or 0,
  redis.call('HVALS', KEYS[1]),
  redis.call('ZRANGE', KEYS[3], 0, -1),
}
