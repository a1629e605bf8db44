-- Claims a nickname for a session, or goes on holding it.
-- KEYS: 1 the nickname's: a hash from sessions to 'expires_ms has_token line spelling'; 2 who has been put out (put_out.lua).
-- ARGV: 1 the session, 2 whether its user has shown a token (0 or 1), 3 how many sessions a user may have, 4 how long it is held, in ms,
-- 5 the spelling, 6 whether this node has given up a session that has it (0 or 1), 7 the line, 8 whether the session has it already
-- (0 or 1): then whoever is here from before a loss, and has not said so since, is not waited for; 9 places where the session was before,
-- between spaces: what is here under one of them was lost and has come back.
-- Returns 'granted', 'taken', 'full', or 'out': an admin has ended this session.
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then
    return 'out'
end
local now = now_ms()
local node = string.match(ARGV[1], '^%d+')
local others, is_shared, is_mine, spelled = 0, true, false, nil
local held = redis.call('HGETALL', KEYS[1])
local last = now + tonumber(ARGV[4])
local is_before = {}
for place in string.gmatch(ARGV[9], '%S+') do
    is_before[place] = true
end
for i = 1, #held, 2 do
    local expires, token, line, spelling = string.match(held[i + 1], '^(%d+) (%d) (%S*) (.*)$')
    if not expires or tonumber(expires) < now then
        redis.call('HDEL', KEYS[1], held[i])
    elseif held[i] == ARGV[1] then
        is_mine = true
    elseif is_before[held[i]] or ARGV[8] == '1' and line ~= ARGV[7] then
        redis.call('HDEL', KEYS[1], held[i])
    elseif ARGV[2] == '0' and ARGV[6] == '0' and string.match(held[i], '^%d+') == node then
        -- Which of its own sessions has it the node knows itself.
        last = math.max(last, tonumber(expires))
    else
        others = others + 1
        is_shared = is_shared and token == '1'
        spelled = spelling
        last = math.max(last, tonumber(expires))
    end
end
if others > 0 and not is_mine then
    if not is_shared or ARGV[2] == '0' then
        return 'taken'
    end
    if others >= tonumber(ARGV[3]) then
        return 'full'
    end
end
local expires = text(now + tonumber(ARGV[4]))
-- Who is alone with it decides how it is spelled.
redis.call('HSET', KEYS[1], ARGV[1], expires .. ' ' .. ARGV[2] .. ' ' .. ARGV[7] .. ' ' .. (spelled or ARGV[5]))
redis.call('PEXPIREAT', KEYS[1], text(last))
return 'granted'
