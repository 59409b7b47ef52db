-- Prelude of the scripts that change who is in a room, if webhooks are sent: records each change.
--
-- STREAM and ROOMS are defined before this: the stream of records, and the prefix of the rooms'
-- channels. Each room has, besides its other keys (see join.lua):
--   observed       hash: peer id -> member (JSON) whose arrival was recorded, but no departure yet
--   observed_live  set: those of them that were recorded as live
--   observed_seq   number of the room's last record
--
-- Change and record are one step: a crash loses no record, and each arrival has exactly one
-- departure. Nothing is recorded twice, whatever happens to the other keys.

local MOST_NOTES = 100000

local function note(channel, event, record, cause, replica)
  expect(STREAM, 'stream')
  expect(channel .. ':observed_seq', 'string')
  local seq = redis.pcall('INCR', channel .. ':observed_seq')
  if type(seq) ~= 'number' then
    redis.call('DEL', channel .. ':observed_seq')
    seq = redis.call('INCR', channel .. ':observed_seq')
  end
  redis.call('XADD', STREAM, 'MAXLEN', '~', MOST_NOTES, '*', 'event', event,
    'room', string.sub(channel, #ROOMS + 1), 'seq', seq, 'cause', cause, 'replica', replica,
    'member', record)
end

local function note_joined(channel, id, record, replica)
  expect(channel .. ':observed', 'hash')
  if redis.call('HSETNX', channel .. ':observed', id, record) == 1 then
    if redis.call('HLEN', channel .. ':observed') == 1 then
      redis.call('DEL', channel .. ':observed_live', channel .. ':observed_seq')
      note(channel, 'room.started', '', '', replica)
    end
    note(channel, 'peer.joined', record, '', replica)
  end
end

local function note_live(channel, id, is_live, replica)
  expect(channel .. ':observed', 'hash')
  expect(channel .. ':observed_live', 'set')
  local record = redis.call('HGET', channel .. ':observed', id)
  if record and redis.call(is_live and 'SADD' or 'SREM', channel .. ':observed_live', id) == 1 then
    note(channel, is_live and 'broadcast.started' or 'broadcast.stopped', record, '', replica)
  end
end

local function note_left(channel, id, cause, replica)
  note_live(channel, id, false, replica)
  local record = redis.call('HGET', channel .. ':observed', id)
  if record then
    redis.call('HDEL', channel .. ':observed', id)
    note(channel, 'peer.left', record, cause, replica)
    if redis.call('EXISTS', channel .. ':observed') == 0 then
      note(channel, 'room.ended', '', '', replica)
      redis.call('DEL', channel .. ':observed_live', channel .. ':observed_seq')
    end
  end
end

-- Members that are gone although no script removed them.
local function note_missing(channel, members, replica)
  expect(channel .. ':observed', 'hash')
  for _, id in ipairs(redis.call('HKEYS', channel .. ':observed')) do
    if redis.call('HEXISTS', members, id) == 0 then
      note_left(channel, id, 'lost', replica)
    end
  end
end

