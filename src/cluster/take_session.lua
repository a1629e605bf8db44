-- Takes a session. KEYS: 1 the session's. ARGV: 1 where it was, 2 where it goes on, 3 how long it is kept, in ms, 4 the
-- line.
-- Returns {revision, body, where it was when it was kept last, where it had been before}, or nil: it is somewhere else by now.
local kept = redis.call('HMGET', KEYS[1], 'ref', 'rev', 'body', 'as', 'ended', 'before')
if kept[1] ~= ARGV[1] or kept[5] then
    return false
end
if string.match(ARGV[1], '^%d+') ~= string.match(ARGV[2], '^%d+') then
    redis.call('HSET', KEYS[1], 'moved', '1')
end
redis.call('HSET', KEYS[1], 'ref', ARGV[2], 'free', '0', 'line', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {kept[2], kept[3], kept[4], kept[6]}
