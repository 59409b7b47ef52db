-- Look for rooms with members whose replica has no lease; some of all rooms at a time.
--
-- KEYS  1 rooms  2 replicas  (see join.lua)
-- ARGV  1 where the last call ended, "0" to begin  2 prefix of the rooms' keys
--       3 about how many rooms to visit  4 read the members only of rooms with at most so many
--       5 the replica that asks: it knows its own rooms
--
-- If the `owned` of a replica is lost and the replica then dies, nothing else finds its members.
-- Returns {where this ended; then the rooms to compare}. These include rooms with more members,
-- and rooms with members of this replica. Empty rooms are removed from `rooms`.

local leased = {[ARGV[5]] = false}

local function is_answered_for(record)
  local member = read_member(record)
  if not member then
    return false
  end
  if leased[member.replica] == nil then
    leased[member.replica] = redis.call('ZSCORE', KEYS[2], member.replica) and true or false
  end
  return leased[member.replica]
end

local function is_sound(name)
  local key = ARGV[2] .. name .. ':members'
  local kind = redis.call('TYPE', key).ok
  if kind == 'none' then
    redis.call('SREM', KEYS[1], name)
    return true
  end
  if kind ~= 'hash' or redis.call('HLEN', key) > tonumber(ARGV[4]) then
    return false
  end
  for _, record in ipairs(redis.call('HVALS', key)) do
    if not is_answered_for(record) then
      return false
    end
  end
  return true
end

local cursor, names = unpack(redis.call('SSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[3]))
local found = {cursor}
for _, name in ipairs(names) do
  if not is_sound(name) then
    found[#found + 1] = name
  end
end
return found
