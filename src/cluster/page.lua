-- Messages of a room. KEYS: 1 meta, 2 messages.
-- ARGV: 1 the epoch, 2 after this offset, 3 before this one, 4 whether the first ones are meant (1) or the last (0), 5 at most so many.
-- Returns the messages in the order in which they were looked for.
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] then
    return {}
end
local after, before = '(' .. ARGV[2] .. '-0', '(' .. ARGV[3] .. '-0'
if ARGV[4] == '1' then
    return redis.call('XRANGE', KEYS[2], after, before, 'COUNT', ARGV[5])
end
return redis.call('XREVRANGE', KEYS[2], before, after, 'COUNT', ARGV[5])
