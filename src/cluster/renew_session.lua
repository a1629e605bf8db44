-- Goes on keeping a session. KEYS: 1 the session's. ARGV: 1 where it is, 2 how long it is kept, in ms.
-- Returns 1, or 0: it is not kept, or not there.
if redis.call('HGET', KEYS[1], 'ref') ~= ARGV[1] then
    return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
