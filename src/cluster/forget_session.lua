-- Forgets a session. KEYS: 1 the session's. ARGV: 1 where it was.
-- Returns 1, or 0: it is somewhere else by now.
if redis.call('HGET', KEYS[1], 'ref') ~= ARGV[1] then
    return 0
end
return redis.call('DEL', KEYS[1])
