-- Give a member to another replica, where its session continues. It neither leaves nor joins.
--
-- KEYS  1 members  2 live  3 seq  4 rooms  5 owned  6 replicas  (see join.lua)
--       7 owned by the other replica
-- ARGV  1 replica  2 room id  3 peer id  4 member (JSON), with the other replica
--       5 the other replica  6 channel of the room
--
-- The change is published with a `moved` member; older replicas, which do not know that field,
-- fetch a snapshot. Returns 1, or 0: a newer connection has the peer id, or the other replica has
-- no lease.

local old = redis.call('HGET', KEYS[1], ARGV[3])
old = old and read_member(old)
if not old or old.replica ~= ARGV[1] or old.joined_at ~= cjson.decode(ARGV[4]).joined_at
    or not redis.call('ZSCORE', KEYS[6], ARGV[5]) then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
redis.call('SADD', KEYS[7], ARGV[2])
local seq = next_number(KEYS[3])
redis.call('PUBLISH', ARGV[6], string.format(
  '{"seq":%d,"origin":%s,"moved":%s}', seq, cjson.encode(ARGV[1]), ARGV[4]))
return 1
