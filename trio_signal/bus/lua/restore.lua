-- Set a replica's members of a room, after an outage or a lost lease.
--
-- Idempotent. Changes are not published one by one: a single change without an event makes every
-- replica fetch a snapshot and send its peers the difference.
--
-- KEYS  1 members  2 live  3 seq  4 rooms  5 owned  6 replicas  (see join.lua)
-- ARGV  1 replica  2 room id  3 channel of the room  4 replicas that are gone (JSON)
--       then, for each member: peer id, member (JSON), and a state:
--         "1" if live, "0" if not; with a "+" behind it if the member was in the directory before
--         "?" if the member is joining: it stays if it is there, and is not written otherwise.
--         These come first
--
-- A peer id of another replica stays there, unless that connection is older and of the same
-- subject: an old socket must not replace a newer one. Nor does a session without a connection
-- replace one that has a connection: the client has gone there since.
-- Removed are unreadable records, members of replicas that are gone and have no lease, keys of
-- another type, and a sequence number that is not a number.
-- Without a lease nothing is written: it would stay for ever if the replica died now.
-- If members that were in the directory before are missing, the room was deleted, and all replicas
-- are about to rewrite theirs. For five seconds, the set `vanished` lists the replicas that have.
-- Returns {"ok", seq, snapshot, false or these replicas}, or {"lease"} if this replica has none.

local VANISHED, MOST = 5000, 10000

if not redis.call('ZSCORE', KEYS[6], ARGV[1]) then
  return {'lease'}
end

local changed = false
for i, kind in ipairs({'hash', 'set', 'string', 'set', 'set'}) do
  changed = expect(KEYS[i], kind) or changed
end
expect(ARGV[3] .. ':reserved', 'hash')
expect(ARGV[3] .. ':reserved_until', 'zset')
expect(ARGV[3] .. ':banned', 'zset')

local function may_write(old, new)
  old, new = old and read_member(old), cjson.decode(new)
  if not old then
    return true
  end
  return old.replica == ARGV[1]
    or (old.subject == new.subject and old.joined_at < new.joined_at
      and (new.away ~= true or old.away ~= false))
end

local function is_same(old, new)
  old, new = old and read_member(old), cjson.decode(new)
  if not old then
    return false
  end
  return old.replica == new.replica and old.joined_at == new.joined_at
end

local mine = {}
local entering = {}
local vanished = ARGV[3] .. ':vanished'
expect(vanished, 'set')
local left = redis.call('PTTL', vanished)
if left == -1 or left > VANISHED or redis.call('SCARD', vanished) > MOST then
  redis.call('DEL', vanished)
end

-- If the room existed before the number was lost, other replicas still have the old one. The text
-- "nan" is a number to Lua, and neither greater nor less than any other.
local number = tonumber(redis.call('GET', KEYS[3]) or '')
if not (number and LOWEST < number and number < HIGHEST) then
  changed = changed or redis.call('EXISTS', KEYS[1]) == 1
  start_numbers(KEYS[3])
end

local is_missing = false
local gone = {}
for _, replica in ipairs(cjson.decode(ARGV[4])) do
  gone[replica] = not redis.call('ZSCORE', KEYS[6], replica)
end

for i = 5, #ARGV, 3 do
  local id, new, state = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local old = redis.call('HGET', KEYS[1], id)
  if state == '?' then
    entering[id] = is_same(old, new)
  else
    mine[id] = true
    is_missing = is_missing or (string.sub(state, 2) == '+' and not (old and read_member(old)))
    if old ~= new and not entering[id] and may_write(old, new) then
      redis.call('HSET', KEYS[1], id, new)
      changed = true
      note_joined(ARGV[3], id, new, ARGV[1])
    end
    local held = redis.call('HGET', KEYS[1], id)
    if held == new then
      redis.call(string.sub(state, 1, 1) == '1' and 'SADD' or 'SREM', KEYS[2], id)
      note_live(ARGV[3], id, string.sub(state, 1, 1) == '1', ARGV[1])
    end
  end
end

local members = redis.call('HGETALL', KEYS[1])
for i = 1, #members, 2 do
  local known = mine[members[i]] or entering[members[i]]
  local member = read_member(members[i + 1])
  local is_left = member and member.replica == ARGV[1] and not known
  if not member or is_left or gone[member.replica] then
    redis.call('HDEL', KEYS[1], members[i])
    if member then
      note_left(ARGV[3], members[i], is_left and 'lost' or 'replica_lost', ARGV[1])
      reserve(ARGV[3], members[i], member)
    else
      is_missing = true
    end
    redis.call('SREM', KEYS[2], members[i])
    changed = true
  end
end

-- If members that this replica has rewritten are missing, the room was deleted once more.
if is_missing and redis.call('SISMEMBER', vanished, ARGV[1]) == 1 then
  redis.call('DEL', vanished)
end
if is_missing or redis.call('EXISTS', vanished) == 1 then
  redis.call('SADD', vanished, ARGV[1])
  if redis.call('PTTL', vanished) < 0 then
    redis.call('PEXPIRE', vanished, VANISHED)
  end
end
local written = redis.call('SMEMBERS', vanished)
local is_whole = #written == 0

for _, id in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  if redis.call('HEXISTS', KEYS[1], id) == 0 then
    redis.call('SREM', KEYS[2], id)
  end
end

if is_whole then
  note_missing(ARGV[3], KEYS[1], ARGV[1])
end
redis.call(#ARGV > 4 and 'SADD' or 'SREM', KEYS[5], ARGV[2])
if changed then
  redis.call('PUBLISH', ARGV[3], string.format(
    '{"seq":%d,"origin":%s}', next_number(KEYS[3]), cjson.encode(ARGV[1])))
end
local seq = redis.call('GET', KEYS[3])
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('DEL', KEYS[2], KEYS[3])
  redis.call('SREM', KEYS[4], ARGV[2])
else
  redis.call('SADD', KEYS[4], ARGV[2])
end
return {'ok', tonumber(seq), redis.call('HVALS', KEYS[1]), not is_whole and written}
