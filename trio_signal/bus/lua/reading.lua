-- Before each script: what somebody else wrote is not believed.

-- The member that a text is; nil if it is none.
local function read_member(text)
  local ok, member = pcall(cjson.decode, text)
  if ok and type(member) == 'table' and type(member.replica) == 'string'
    and type(member.subject) == 'string' and type(member.joined_at) == 'string' then
    return member
  end
end

-- A key that is of another type than this is nobody's: it is removed. Returns whether it was.
local function expect(key, kind)
  local found = redis.call('TYPE', key).ok
  if found == kind or found == 'none' then
    return false
  end
  redis.call('DEL', key)
  return true
end

