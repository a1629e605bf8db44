-- Goes on keeping a session. KEYS: 1 the session's. ARGV: 1 where it is, 2 how long it is kept, in ms, 3 the line.
-- Returns 1; 0: another node has it, or has had it until it ended; or -1: it is not there, or as it was before a loss.
local kept = redis.call('HMGET', KEYS[1], 'ref', 'ended', 'line')
local ref = kept[1]
if kept[2] then
    return 0
end
if not ref or kept[3] ~= ARGV[3] then
    return -1
end
if string.match(ref, '^%d+') ~= string.match(ARGV[1], '^%d+') then
    return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
