-- Take over a session whose replica has ended and parked it.
--
-- KEYS  1 members  2 live  3 seq  4 rooms  5 owned  6 replicas  (see join.lua)
--       7 parked    hash: session -> the room that it is in
--       8 parcel    what its client has not confirmed; see messages/handover.py
-- ARGV  1 replica  2 room id  3 peer id  4 member (JSON), with this replica
--       5 the replica that has ended  6 channel of the room  7 session
--
-- Returns the parcel, or false: it is gone, or another connection has the peer id by now.

expect(KEYS[7], 'hash')
expect(KEYS[8], 'string')
local parcel = redis.call('GET', KEYS[8])
local old = parcel and redis.call('HGET', KEYS[1], ARGV[3])
old = old and read_member(old)
if not old or old.replica ~= ARGV[5] or old.joined_at ~= cjson.decode(ARGV[4]).joined_at
    or not redis.call('ZSCORE', KEYS[6], ARGV[1]) then
  return false
end
redis.call('DEL', KEYS[8])
redis.call('HDEL', KEYS[7], ARGV[7])
redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
redis.call('SADD', KEYS[5], ARGV[2])
local seq = next_number(KEYS[3])
redis.call('PUBLISH', ARGV[6], string.format(
  '{"seq":%d,"origin":%s,"moved":%s}', seq, cjson.encode(ARGV[5]), ARGV[4]))
return parcel
