-- Count the users who receive announcements, on all replicas that have a lease.
--
-- KEYS  1 replicas  (see join.lua)
--       2 members   hash: peer id -> member (JSON), of those on replicas of version 0.1
-- ARGV  1 prefix of the keys with the users of each replica: set
--
-- A user of several replicas is counted once.

local here, users, count = {}, {}, 0

local function add(user)
  if not users[user] then
    users[user] = true
    count = count + 1
  end
end

for _, replica in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  here[replica] = true
  expect(ARGV[1] .. replica, 'set')
  for _, user in ipairs(redis.call('SMEMBERS', ARGV[1] .. replica)) do
    add(user)
  end
end
expect(KEYS[2], 'hash')
for _, record in ipairs(redis.call('HVALS', KEYS[2])) do
  local member = read_member(record)
  if member and here[member.replica] and type(member.user_id) == 'string' then
    add(member.user_id)
  end
end
return count
