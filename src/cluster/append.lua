-- Appends a change.
-- KEYS: those of the room.
-- ARGV: 1 epoch, 2 change, 3 offset that the copy has seen; 4 change, 5 offset that its node knows of; 6 node; 7 tag; 8 whether it is a
-- guard (0 or 1); 9 how long the room lasts, in ms; 10 the channel; 11 the change.
-- Returns {'+', change, offset} or {'lost'}. A change that the node has appended before, or one before its last, is not appended: what is
-- told then is the place of its last.
local m = head()
if not has(m, ARGV[1], ARGV[4], ARGV[5]) then
    return {'lost'}
end
local last = redis.call('HGET', KEYS[5], ARGV[6])
if last then
    local tag, change, offset = string.match(last, '^(%d+) (%d+) (%d+)$')
    if tag and tonumber(tag) >= tonumber(ARGV[7]) then
        return {'+', change, offset}
    end
end
local change, offset, time = text(m.change + 1), text(m.offset), text(next_time(m))
redis.call('HSET', KEYS[1], 'change', change, 'time', time)
if ARGV[8] == '1' then
    redis.call('HSET', KEYS[1], 'guard', change)
end
-- Changes are forgotten when what they lead to is kept (keep.lua). If that is never done there is an end of it all the same.
redis.call('XADD', KEYS[3], 'MAXLEN', '~', 65536, change .. '-0',
    't', time, 'o', offset, 'n', ARGV[6], 'i', ARGV[7], 'b', ARGV[11])
redis.call('HSET', KEYS[5], ARGV[6], ARGV[7] .. ' ' .. change .. ' ' .. offset)
if m.change % 64 == 0 then
    last_for(ARGV[9])
end
redis.pcall('PUBLISH', ARGV[10], table.concat({'c', m.epoch, change, offset, time, ARGV[6], ARGV[7], ARGV[11]}, ' '))
return {'+', change, offset}
