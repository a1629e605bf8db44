-- Keeps what a room is after a change, and forgets the changes up to it.
-- KEYS: those of the room. ARGV: 1 epoch, 2 change, 3 what it is (JSON), 4 how many members it has, 5 how long it lasts, in ms.
-- Returns 1, or 0: it has another epoch, or a later one is kept.
local m = head()
local change = tonumber(ARGV[2])
if not m or m.epoch ~= ARGV[1] or change > m.change then
    return 0
end
if change <= tonumber(redis.call('HGET', KEYS[4], 'change') or '-1') then
    return 0
end
redis.call('HSET', KEYS[4], 'change', ARGV[2], 'body', ARGV[3])
redis.call('HSET', KEYS[1], 'members', ARGV[4])
redis.call('PEXPIRE', KEYS[4], ARGV[5])
-- Some stay, so that a copy that is a little late need not begin anew.
local first = change - 255
if first > 1 then
    redis.call('XTRIM', KEYS[3], 'MINID', text(first) .. '-0')
end
-- What nodes that are long gone have appended last is of use to nobody.
if redis.call('HLEN', KEYS[5]) > 64 then
    local by = redis.call('HGETALL', KEYS[5])
    for i = 1, #by, 2 do
        local at = string.match(by[i + 1], '^%d+ (%d+) ')
        if not at or tonumber(at) < first then
            redis.call('HDEL', KEYS[5], by[i])
        end
    end
end
return 1
