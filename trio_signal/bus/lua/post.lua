-- Let a revision of the announcements hold, unless a newer one does.
--
-- KEYS  1 current_broadcast  string: the active announcement (JSON), for all to read
--       2 edition            hash: revision, id, edition; the number, the id and the JSON of
--                            the revision that holds, by the names that version 0.1 gave them
-- ARGV  1 number  2 id of the announcement  3 revision (JSON)
--       4 current_broadcast, or "" if nothing is active
--       5 channel  6 what to tell there
--       7 the greatest number that may be  8 a revision that cannot be read, or ""
--
-- Of two with the same number the one with the greater id is newer. What holds
-- already is written once more: somebody may have deleted the key.
-- What holds does so only if it can be read, is what its fields say, and may be.
-- Returns the revision that holds.

expect(KEYS[2], 'hash')

local held = redis.call('HMGET', KEYS[2], 'revision', 'id', 'edition')
local revision = tonumber(ARGV[1])

local function is_valid()
  local ok, edition = pcall(cjson.decode, held[3])
  return ok and held[3] ~= ARGV[8] and type(edition) == 'table'
    and type(edition.announcement) == 'table' and edition.announcement.id == held[2]
    and type(edition.revision) == 'number' and edition.revision == tonumber(held[1])
    and edition.revision <= tonumber(ARGV[7])
end

if not is_valid() then
  held = {}
else
  local other = tonumber(held[1])
  if other > revision or (other == revision and held[2] > ARGV[2]) then
    return held[3]
  end
end

if ARGV[4] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[4])
end
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then
  redis.call('HSET', KEYS[2], 'revision', ARGV[1], 'id', ARGV[2], 'edition', ARGV[3])
  redis.call('PUBLISH', ARGV[5], ARGV[6])
end
return ARGV[3]
