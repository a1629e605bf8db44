-- Lets a session hold a nickname in the place of another one.
-- KEYS: those of claim.lua.
-- ARGV: 1 the session, 2 whether its user has shown a token (0 or 1), 3 who had it, 4 how long it is held, in ms, 5 the spelling, 6 the
-- line: who is here from before a loss, and has not said so since, is not waited for; 7 places where it has been, as in claim.lua; 8 the node
-- that it was taken from.
-- Returns 'granted'; 'taken': the other one does not hold it any more, and somebody else does; or 'out': an admin has ended it.
if redis.call('HEXISTS', KEYS[2], ARGV[3]) == 1 then
    return 'out'
end
local now = now_ms()
local node = string.match(ARGV[3], '^%d+')
local of_old, spelled, is_shared, strangers, last = nil, nil, ARGV[2] == '1', 0, now + tonumber(ARGV[4])
local held = redis.call('HGETALL', KEYS[1])
local heirs, is_before = {}, {}
for place in string.gmatch(ARGV[7], '%S+') do
    is_before[place] = true
end
for i = 1, #held, 2 do
    local expires, token, line, spelling = string.match(held[i + 1], '^(%d+) (%d) (%S*) (.*)$')
    if not expires or tonumber(expires) < now then
        redis.call('HDEL', KEYS[1], held[i])
    elseif held[i] == ARGV[3] or is_before[held[i]] then
        of_old = spelling
        last = math.max(last, tonumber(expires))
        redis.call('HDEL', KEYS[1], held[i])
    elseif line ~= ARGV[6] and held[i] ~= ARGV[1] then
        redis.call('HDEL', KEYS[1], held[i])
    elseif held[i] ~= ARGV[1] then
        spelled = spelling
        is_shared = is_shared and token == '1'
        last = math.max(last, tonumber(expires))
        local at = string.match(held[i], '^%d+')
        if token == '0' and (at == node or at == ARGV[8]) then
            heirs[#heirs + 1] = held[i]
        else
            strangers = strangers + 1
        end
    end
end
if not of_old and not is_shared then
    if strangers > 0 then
        return 'taken'
    end
    -- The other one had gone on on its node, which did not know yet that it had lost it, or could not say any more where it was.
    for i = 1, #heirs do
        redis.call('HDEL', KEYS[1], heirs[i])
    end
end
local value = text(now + tonumber(ARGV[4])) .. ' ' .. ARGV[2] .. ' ' .. ARGV[6] .. ' ' .. (of_old or spelled or ARGV[5])
redis.call('HSET', KEYS[1], ARGV[1], value)
redis.call('PEXPIREAT', KEYS[1], text(last))
return 'granted'
