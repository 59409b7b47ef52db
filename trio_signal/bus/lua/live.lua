-- The live members of a room.
--
-- KEYS  1 live  2 members  (see join.lua)
--
-- Returns members; peer ids without a member are left out.

local ids = redis.call('SMEMBERS', KEYS[1])
local members = {}
for first = 1, #ids, 1000 do
  local some = redis.call('HMGET', KEYS[2], unpack(ids, first, math.min(first + 999, #ids)))
  for _, member in ipairs(some) do
    if member then
      members[#members + 1] = member
    end
  end
end
return members
