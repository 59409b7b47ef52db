-- The members of a room, the number of its last change, and the replicas.
--
-- KEYS  1 members  2 seq  3 replicas  4 rooms  5 owned  6 live  (see join.lua)
-- ARGV  1 room id
--
-- Returns {seq, snapshot, replicas, 1 if the room is in `rooms`, 1 if it is in `owned`, peer ids in
-- `live`}; seq is 0 for an empty room. If `live` has another type, it is returned as false.

local live = redis.pcall('SMEMBERS', KEYS[6])

return {
  tonumber(redis.call('GET', KEYS[2]) or '0') or 0,
  redis.call('HVALS', KEYS[1]),
  redis.call('ZRANGE', KEYS[3], 0, -1),
  redis.call('SISMEMBER', KEYS[4], ARGV[1]),
  redis.call('SISMEMBER', KEYS[5], ARGV[1]),
  not live.err and live,
}
