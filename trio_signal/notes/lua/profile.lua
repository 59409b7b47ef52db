-- Keep a user's profile in a room.
--
-- KEYS  1 profiles  hash: user id -> profile (JSON); of the room
--       2 order  3 sizes  of [room id, user id] (JSON)  (see account.lua)
-- ARGV  1 room id  2 user id  3 profile (JSON)  4 its bytes, with overhead
--       5 most bytes of all  6 seconds  7 prefix of the keys of rooms' profiles

local seconds = tonumber(ARGV[6])
expect(KEYS[1], 'hash')
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
redis.call('EXPIRE', KEYS[1], seconds)
count(KEYS[2], KEYS[3], cjson.encode({ARGV[1], ARGV[2]}), ARGV[4], tonumber(ARGV[5]), seconds,
  function(entry)
    local old = cjson.decode(entry)
    expect(ARGV[7] .. old[1], 'hash')
    redis.call('HDEL', ARGV[7] .. old[1], old[2])
  end)
