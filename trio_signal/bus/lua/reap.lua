-- Remove all members of a dead replica from their rooms, and publish that.
--
-- The first call does everything, so each departure is published once. The keys of rooms are made
-- from the names that the replica left behind; in a cluster, all keys must have one hash tag.
--
-- KEYS  1 replicas  2 rooms  3 owned by the dead replica  (see join.lua)
-- ARGV  1 the dead replica  2 prefix of the rooms' keys  3 the time (RFC 3339)
--       4 "1" if the replica stops by itself: its lease need not have run out
--
-- Returns {when the lease ran out in ms, or 0; then for each removed member: its room, and the
-- member (JSON)}.

expect(KEYS[2], 'set')
expect(KEYS[3], 'set')

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if ARGV[4] ~= '1' and (not score or tonumber(score) >= now) then
  return {0}
end
redis.call('ZREM', KEYS[1], ARGV[1])

local taken = {tonumber(score) or 0}
local at = cjson.encode(ARGV[3])
local origin = cjson.encode(ARGV[1])
local cause = ARGV[4] == '1' and 'shutdown' or 'replica_lost'

local function tell(channel, seq, event)
  redis.call('PUBLISH', channel, string.format(
    '{"seq":%d,"origin":%s,"event":%s}', next_number(seq), origin, event))
end

for _, room in ipairs(redis.call('SMEMBERS', KEYS[3])) do
  local channel = ARGV[2] .. room
  local members, live, seq = channel .. ':members', channel .. ':live', channel .. ':seq'
  expect(members, 'hash')
  expect(live, 'set')
  expect(seq, 'string')
  local entries = redis.call('HGETALL', members)
  local name = cjson.encode(room)
  for i = 1, #entries, 2 do
    local member = read_member(entries[i + 1])
    if member and member.replica == ARGV[1] then
      redis.call('HDEL', members, entries[i])
      reserve(channel, entries[i], member)
      note_left(channel, entries[i], cause, ARGV[1])
      -- The published member has no "live"; the JSON is copied as it is.
      if redis.call('SREM', live, entries[i]) == 1 then
        tell(channel, seq, string.format(
          '{"type":"StoppedLive","room_id":%s,"member":%s,"last":false,"cause":"left","at":%s}',
          name, entries[i + 1], at))
      end
      tell(channel, seq, string.format(
        '{"type":"Left","room_id":%s,"member":%s,"last":false,"peers":0,"at":%s,"cause":"%s"}',
        name, entries[i + 1], at, cause))
      table.insert(taken, room)
      table.insert(taken, entries[i + 1])
    end
  end
  if redis.call('EXISTS', members) == 0 then
    redis.call('DEL', live, seq)
    redis.call('SREM', KEYS[2], room)
  end
end
redis.call('DEL', KEYS[3])
return taken
