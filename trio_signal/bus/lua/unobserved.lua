-- The same where no webhooks are sent: nothing is noted.

local function note_joined() end
local function note_live() end
local function note_left() end
local function note_missing() end

