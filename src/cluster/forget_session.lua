-- Forgets a session. KEYS: 1 the session's. ARGV: 1 where it was.
-- Returns 1, or 0: another node has it by now.
local ref = redis.call('HGET', KEYS[1], 'ref')
if not ref or string.match(ref, '^%d+') ~= string.match(ARGV[1], '^%d+') then
    return 0
end
return redis.call('DEL', KEYS[1])
