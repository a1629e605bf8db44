-- Opens a room, and makes it if it is not there.
-- KEYS: those of the room. ARGV: 1 the epoch that it begins with, or nothing; 2 its name; 3 how long it lasts, in ms; 4 the line.
-- Returns the room (opened), or nil: it is not there and was not to be made.
local m = head()
if not m then
    if ARGV[1] == '' then
        return false
    end
    make(ARGV[1], ARGV[2], ARGV[4])
    last_for(ARGV[3])
    m = head()
end
return opened(m, ARGV[4])
