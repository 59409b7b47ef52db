-- Write members anew: they went live, stopped, or changed their profile.
--
-- KEYS  1 members  2 live  3 seq  (see join.lua)
-- ARGV  1 replica  2 channel of the room
--       3 event (JSON), or "" if it was published already: then a change without an
--         event makes replicas read again whose snapshot was taken between the two
--       then, for each member: peer id, member (JSON), "1" if live else "0"
--
-- A member is skipped if a newer connection has its peer id, here or on another replica. Returns
-- how many were written. An unreadable record raises an error after everything else is done; the
-- room is then restored.

local unreadable = false

local function is_ours(old, new)
  if not old then
    return false
  end
  old, new = read_member(old), cjson.decode(new)
  unreadable = unreadable or not old
  return old and old.replica == ARGV[1] and old.joined_at == new.joined_at
end

local written = 0
for i = 4, #ARGV, 3 do
  if is_ours(redis.call('HGET', KEYS[1], ARGV[i]), ARGV[i + 1]) then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    redis.call(ARGV[i + 2] == '1' and 'SADD' or 'SREM', KEYS[2], ARGV[i])
    note_live(ARGV[2], ARGV[i], ARGV[i + 2] == '1', ARGV[1])
    written = written + 1
  end
end
if written > 0 then
  local event = ARGV[3] == '' and 'null' or ARGV[3]
  local seq = next_number(KEYS[3])
  redis.call('PUBLISH', ARGV[2], string.format(
    '{"seq":%d,"origin":%s,"event":%s}', seq, cjson.encode(ARGV[1]), event))
end
if unreadable then
  return redis.error_reply('UNREADABLE the record of a member that changes')
end
return written
