-- Appends a change.
-- KEYS: those of the room.
-- ARGV: 1 epoch, 2 change, 3 offset that the copy has seen; 4 node; 5 tag; 6 whether it is a guard (0 or 1); 7 how long the room lasts, in
-- ms; 8 the channel; 9 the change.
-- Returns {'+', change, offset} or {'lost'}. A change that the node has appended before, or one before its last, is not appended: what is
-- told then is the place of its last.
local m = head()
if not has(m, ARGV[1], ARGV[2], ARGV[3]) then
    return {'lost'}
end
local last = redis.call('HGET', KEYS[5], ARGV[4])
if last then
    local tag, change, offset = string.match(last, '^(%d+) (%d+) (%d+)$')
    if tag and tonumber(tag) >= tonumber(ARGV[5]) then
        return {'+', change, offset}
    end
end
local change, offset, time = text(m.change + 1), text(m.offset), text(next_time(m))
redis.call('HSET', KEYS[1], 'change', change, 'time', time)
if ARGV[6] == '1' then
    redis.call('HSET', KEYS[1], 'guard', change)
end
-- Changes are forgotten when what they lead to is kept (keep.lua). If that is never done there is an end of it all the same.
redis.call('XADD', KEYS[3], 'MAXLEN', '~', 65536, change .. '-0',
    't', time, 'o', offset, 'n', ARGV[4], 'i', ARGV[5], 'b', ARGV[9])
redis.call('HSET', KEYS[5], ARGV[4], ARGV[5] .. ' ' .. change .. ' ' .. offset)
if m.change % 64 == 0 then
    last_for(ARGV[7])
end
redis.call('PUBLISH', ARGV[8], table.concat({'c', m.epoch, change, offset, time, ARGV[4], ARGV[5], ARGV[9]}, ' '))
return {'+', change, offset}
