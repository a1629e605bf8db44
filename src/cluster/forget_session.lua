-- Forgets a session. KEYS: 1 the session's. ARGV: 1 where it was, 2 for how long a node that had it before might come back, in ms, 3 the line.
-- Returns 1, or 0: another node has it by now.
local kept = redis.call('HMGET', KEYS[1], 'ref', 'moved', 'line')
local is_ours = kept[1] and string.match(kept[1], '^%d+') == string.match(ARGV[1], '^%d+')
if not kept[1] or not is_ours and kept[3] == ARGV[3] then
    return 0
end
if kept[2] or not is_ours then
    -- The node that had it may have it still, cut off, and must not take it for lost when it is back.
    redis.call('HSET', KEYS[1], 'ended', '1')
    redis.call('HDEL', KEYS[1], 'body')
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    return 1
end
return redis.call('DEL', KEYS[1])
