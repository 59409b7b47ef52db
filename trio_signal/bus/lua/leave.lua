-- Remove a member from a room, unless a newer connection has its peer id, here or elsewhere.
--
-- KEYS  1 members  2 live  3 seq  4 rooms  (see join.lua)
-- ARGV  1 replica  2 room id  3 peer id  4 event (JSON)  5 channel of the room
--
-- Returns 1, or 0 if there was nothing to remove. An unreadable record raises an error; the room is
-- then restored.

local old = redis.call('HGET', KEYS[1], ARGV[3])
if not old then
  return 0
end
old = read_member(old)
if not old then
  return redis.error_reply('UNREADABLE the record of a member that leaves')
end
if old.replica ~= ARGV[1] or old.joined_at ~= cjson.decode(ARGV[4]).member.joined_at then
  return 0
end
redis.call('HDEL', KEYS[1], ARGV[3])
reserve(ARGV[5], ARGV[3], old)
redis.call('SREM', KEYS[2], ARGV[3])
note_left(ARGV[5], ARGV[3], cjson.decode(ARGV[4]).cause or 'lost', ARGV[1])
local seq = next_number(KEYS[3])
redis.call('PUBLISH', ARGV[5], string.format(
  '{"seq":%d,"origin":%s,"event":%s}', seq, cjson.encode(ARGV[1]), ARGV[4]))
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('DEL', KEYS[2], KEYS[3])
  redis.call('SREM', KEYS[4], ARGV[2])
end
return 1
