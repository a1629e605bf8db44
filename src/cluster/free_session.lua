-- Lets go of a session that was taken: another node may have it. KEYS: 1 the session's. ARGV: 1 where it is.
-- Returns 1, or 0: it is somewhere else by now.
if redis.call('HGET', KEYS[1], 'ref') ~= ARGV[1] then
    return 0
end
redis.call('HSET', KEYS[1], 'free', '1')
return 1
