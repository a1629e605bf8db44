-- Gives a message its place.
-- KEYS: those of the room; 6 that of the message, if it may come again.
-- ARGV: 1 epoch, 2 change, 3 offset that the copy has seen; 4 change, 5 offset that its node knows of; 6 messages that are kept; 7 how
-- long the message's key is kept, in ms; 8 how long the room lasts, in ms; 9 the channel; 10 the message.
-- Returns {'+', offset, time}, {'repeated', 'epoch offset time'}, {'behind'} or {'lost'}.
local m = head()
if not has(m, ARGV[1], ARGV[4], ARGV[5]) then
    return {'lost'}
end
if KEYS[6] then
    local before = redis.call('GET', KEYS[6])
    if before then
        return {'repeated', before}
    end
end
if tonumber(ARGV[2]) < m.guard then
    return {'behind'}
end
local offset, change, time = text(m.offset + 1), text(m.change), text(next_time(m))
redis.call('HSET', KEYS[1], 'offset', offset, 'time', time)
if ARGV[6] == '0' then
    redis.call('DEL', KEYS[2])
else
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[6], offset .. '-0', 't', time, 'g', change, 'b', ARGV[10])
end
if KEYS[6] then
    redis.call('SET', KEYS[6], m.epoch .. ' ' .. offset .. ' ' .. time, 'PX', ARGV[7])
end
-- With the first message, which makes the key, and every 64th.
if m.offset % 64 == 0 then
    last_for(ARGV[8])
end
-- It has its place by now: where it cannot be announced it is found by a look.
redis.pcall('PUBLISH', ARGV[9], table.concat({'m', m.epoch, offset, change, time, ARGV[10]}, ' '))
return {'+', offset, time}
