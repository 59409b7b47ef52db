-- Prelude of the scripts that change who is in a room, if no webhooks are sent: records nothing.

local function note_joined() end
local function note_live() end
local function note_left() end
local function note_missing() end

