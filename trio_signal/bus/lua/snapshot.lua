-- Who is in a room, and the number of its last change.
--
-- KEYS  1 members  2 seq  (see join.lua)
--
-- Returns {seq, snapshot}; seq is 0 for a room that has nobody.

return {tonumber(redis.call('GET', KEYS[2]) or '0'), redis.call('HVALS', KEYS[1])}
