-- Count the members of some rooms.
--
-- KEYS  1 rooms  (see join.lua)
-- ARGV  1 prefix of the rooms' keys
--       then, for each room: its id, and the seq of its last count, or "0"
--
-- Returns for each room {seq, peers, users, live users, when the first of them joined}, {seq} alone
-- if it has not changed since the last count, or {0} if it is empty. So members are read once per
-- change, however often rooms are listed.

local function field(record, name)
  local plain = string.match(record, '"' .. name .. '":"([^"\\]*)"')
  if plain then
    return plain
  end
  local read, member = pcall(cjson.decode, record)
  return read and type(member) == 'table' and type(member[name]) == 'string' and member[name]
end

local function count(key, seq)
  local entries = redis.call('HGETALL', key .. ':members')
  local is_live = {}
  for _, peer in ipairs(redis.call('SMEMBERS', key .. ':live')) do
    is_live[peer] = true
  end
  local users, live, since = {}, {}, ''
  local user_count, live_count = 0, 0
  for i = 1, #entries, 2 do
    local user, joined = field(entries[i + 1], 'user_id'), field(entries[i + 1], 'joined_at')
    if user and not users[user] then
      users[user] = true
      user_count = user_count + 1
    end
    if user and is_live[entries[i]] and not live[user] then
      live[user] = true
      live_count = live_count + 1
    end
    if joined and joined ~= '' and (since == '' or joined < since) then
      since = joined
    end
  end
  return {seq, #entries / 2, user_count, live_count, since}
end

local counts = {}
for i = 2, #ARGV, 2 do
  local key = ARGV[1] .. ARGV[i]
  expect(key .. ':members', 'hash')
  expect(key .. ':live', 'set')
  expect(key .. ':seq', 'string')
  local seq = redis.call('GET', key .. ':seq') or ''
  if redis.call('EXISTS', key .. ':members') == 0 then
    counts[#counts + 1] = {0}
  elseif seq ~= '' and seq == ARGV[i + 1] then
    counts[#counts + 1] = {seq}
  else
    counts[#counts + 1] = count(key, seq)
  end
end
return counts
