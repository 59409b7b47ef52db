-- Prelude of each script: checks values, which anybody may have written.

-- Decode a member; nil if the text is none.
local function read_member(text)
  local ok, member = pcall(cjson.decode, text)
  if ok and type(member) == 'table' and type(member.replica) == 'string'
    and type(member.subject) == 'string' and type(member.joined_at) == 'string' then
    return member
  end
end

-- Delete a key that has another type. Returns whether it was deleted.
local function expect(key, kind)
  local found = redis.call('TYPE', key).ok
  if found == kind or found == 'none' then
    return false
  end
  redis.call('DEL', key)
  return true
end

-- Numbers of a room's changes start with the time in microseconds. So those of a room that was
-- empty, or lost its number, are above all its old ones, which replicas still remember.
local LOWEST, HIGHEST = 1e15, 2 ^ 52

local function start_numbers(key)
  local time = redis.call('TIME')
  redis.call('SET', key, time[1] .. string.format('%06d', tonumber(time[2])))
  return tonumber(redis.call('GET', key))
end

-- The number of the next change; `key` has that of the last one.
local function next_number(key)
  local number = redis.pcall('INCR', key)
  if type(number) == 'number' and LOWEST < number and number < HIGHEST then
    return number
  end
  return start_numbers(key)
end
