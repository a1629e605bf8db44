-- Lets a session hold a nickname in the place of another one.
-- KEYS: 1 the nickname's, as in claim.lua.
-- ARGV: 1 the session, 2 whether its user has shown a token (0 or 1), 3 who had it, 4 how long it is held, in ms, 5 the spelling.
-- Returns 'granted', or 'taken': the other one does not hold it any more, and somebody else does.
local now = now_ms()
local function of(value)
    local expires, token, spelling = string.match(value or '', '^(%d+) (%d) (.*)$')
    if expires and tonumber(expires) >= now then
        return tonumber(expires), spelling
    end
end
local _, spelled = of(redis.call('HGET', KEYS[1], ARGV[3]))
local last = now + tonumber(ARGV[4])
local held = redis.call('HGETALL', KEYS[1])
for i = 1, #held, 2 do
    local expires = of(held[i + 1])
    if not expires then
        redis.call('HDEL', KEYS[1], held[i])
    elseif not spelled and held[i] ~= ARGV[1] then
        return 'taken'
    else
        last = math.max(last, expires)
    end
end
redis.call('HDEL', KEYS[1], ARGV[3])
redis.call('HSET', KEYS[1], ARGV[1], text(now + tonumber(ARGV[4])) .. ' ' .. ARGV[2] .. ' ' .. (spelled or ARGV[5]))
redis.call('PEXPIREAT', KEYS[1], text(last))
return 'granted'
