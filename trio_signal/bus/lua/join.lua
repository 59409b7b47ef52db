-- Enter a member into a room: check, write, number, publish; all or nothing.
--
-- KEYS  1 members   hash: peer id -> member (JSON)
--       2 live      set: peer ids that are live
--       3 seq       number of the room's last change
--       4 rooms     set: rooms that have members
--       5 owned     set: rooms in which this replica has members
--       6 replicas  sorted set: replica -> when its lease runs out, in ms
-- ARGV  1 replica  2 room id  3 peer id  4 subject  5 member  6 event (JSON)
--       7 cap of peers  8 cap of viewers, or -1  9 channel of the room
--       10 "1" to return a snapshot
--       11 "1" to take the peer id over even from a member that joined later
--       12 digest of the identity, the same in every dialect
--
-- An unreadable record belongs to nobody.
-- Returns {"ok", seq, snapshot or false, written}, `written` as in restore.lua, or one of
--   {"lease"}        this replica has no lease
--   {"banned"}       banned, or the room is locked (the key `locked`)
--   {"in_use"}       another subject has the peer id, or it is reserved (reserve.lua)
--   {"later"}        another replica has a member that joined later: this request may be an old one
--   {"room_full"}, {"stream_full"}

if not redis.call('ZSCORE', KEYS[6], ARGV[1]) then
  return {'lease'}
end

local function is_ahead(score)
  if not score then
    return false
  end
  local time = redis.call('TIME')
  return tonumber(score) > tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

if is_ahead(redis.call('ZSCORE', ARGV[9] .. ':banned', ARGV[12])) then
  return {'banned'}
end

local old = redis.call('HGET', KEYS[1], ARGV[3])
local holder = old and read_member(old)
if holder then
  if holder.subject ~= ARGV[4] then
    return {'in_use'}
  end
  local later = holder.joined_at > cjson.decode(ARGV[5]).joined_at
  if later and holder.replica ~= ARGV[1] and ARGV[11] ~= '1' then
    return {'later'}
  end
elseif not old then
  if redis.call('EXISTS', ARGV[9] .. ':locked') == 1 then
    return {'banned'}
  end
  local owner = redis.call('HGET', ARGV[9] .. ':reserved', ARGV[3])
  if owner and owner ~= redis.sha1hex(ARGV[4])
      and is_ahead(redis.call('ZSCORE', ARGV[9] .. ':reserved_until', ARGV[3])) then
    return {'in_use'}
  end
  local peers = redis.call('HLEN', KEYS[1])
  if peers >= tonumber(ARGV[7]) then
    return {'room_full'}
  end
  local viewers = tonumber(ARGV[8])
  if viewers >= 0 and peers - redis.call('SCARD', KEYS[2]) >= viewers then
    return {'stream_full'}
  end
end

redis.call('HSET', KEYS[1], ARGV[3], ARGV[5])
redis.call('SREM', KEYS[2], ARGV[3])
note_live(ARGV[9], ARGV[3], false, ARGV[1])
note_joined(ARGV[9], ARGV[3], ARGV[5], ARGV[1])
redis.call('SADD', KEYS[4], ARGV[2])
redis.call('SADD', KEYS[5], ARGV[2])
local seq = next_number(KEYS[3])
redis.call('PUBLISH', ARGV[9], string.format(
  '{"seq":%d,"origin":%s,"event":%s}', seq, cjson.encode(ARGV[1]), ARGV[6]))
if ARGV[10] ~= '1' then
  return {'ok', seq, false, false}
end
local written = redis.pcall('SMEMBERS', ARGV[9] .. ':vanished')
return {'ok', seq, redis.call('HVALS', KEYS[1]), #written > 0 and written}
