-- Tells what came after what a copy has seen, and before it the last change and the last message that it has seen, if they are still
-- here: a copy of what was lost finds by them that the room has gone on without it.
-- KEYS: those of the room. ARGV: 1 epoch, 2 change, 3 offset that the copy has seen; 4 change, 5 offset that its node
-- knows of; 6 at most so many messages, and so many changes; 7 the line.
-- Returns {'entries', epoch, change, offset, changes, messages}, with the last place that the room has; the whole room (opened), where
-- what came is not there any more, or the room has another epoch; or nil: it is not there.
local m = head()
if not m then
    return false
end
if has(m, ARGV[1], ARGV[4], ARGV[5]) then
    -- All that came after `seen`, and whether it is all there: nothing before it has been forgotten.
    local function after(key, seen, last)
        local found = redis.call('XRANGE', key, seen .. '-0', '+', 'COUNT', ARGV[6])
        local first = found[1] and found[1][1]
        local begins = first == seen .. '-0' or first == text(tonumber(seen) + 1) .. '-0'
        return found, begins or last == tonumber(seen)
    end
    local changes, has_changes = after(KEYS[3], ARGV[2], m.change)
    local messages, has_messages = after(KEYS[2], ARGV[3], m.offset)
    if has_changes and has_messages then
        -- The copy vouches for it: nothing is missing that its node knows of.
        redis.call('HSET', KEYS[1], 'line', ARGV[7])
        return {'entries', m.epoch, text(m.change), text(m.offset), changes, messages}
    end
end
return opened(m, ARGV[7])
