-- Ends the sessions that hold a nickname and whose nodes are lost: nobody else can.
-- KEYS: 1 the nickname's, as in claim.lua; 2 who has been put out: a hash of sessions.
-- ARGV: 1 for how long such a session could come back, in ms; from 2 on the nodes that live.
-- Returns how many there were.
local now = now_ms()
local living = {}
for i = 2, #ARGV do
    living[ARGV[i]] = true
end
local found = 0
local held = redis.call('HGETALL', KEYS[1])
for i = 1, #held, 2 do
    local expires = string.match(held[i + 1], '^%d+')
    if not living[string.match(held[i], '^%d+')] and expires and tonumber(expires) >= now then
        -- First what needs memory: without it nothing is changed.
        redis.call('HSET', KEYS[2], held[i], '')
        redis.call('HDEL', KEYS[1], held[i])
        found = found + 1
    end
end
if found > 0 then
    redis.call('PEXPIRE', KEYS[2], ARGV[1])
end
return found
