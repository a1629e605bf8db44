-- Messages posted into a room over HTTP, 128 bytes of content each, with their answers checked.
--
--     wrk -t1 -c16 -d5s -s benches/wrk/publish.lua http://127.0.0.1:8080 -- ROOM TOKEN-or-KEY [PIPELINE]
--
-- What has the two dots of a JWT is shown as a token, anything else as an API key. PIPELINE (1 if there is none) is how many
-- requests each write carries; wrk counts requests, its latencies are a batch's. The server's limit of the rate is in the way of
-- load: `starling serve --set rate.commands_per_second=0`.

local CONTENT_BYTES = 128

local threads = {}

function setup(thread)
    threads[#threads + 1] = thread
end

function init(arguments)
    local room, credentials = arguments[1], arguments[2]
    if not room or not credentials then
        error("which room, and with which token or API key? -- ROOM TOKEN-or-KEY [PIPELINE]")
    end
    local headers = { ["Content-Type"] = "application/json" }
    if credentials:match("^[^.]+%.[^.]+%.[^.]+$") then
        headers["Authorization"] = "Bearer " .. credentials
    else
        headers["X-API-Key"] = credentials
    end
    local escaped = room:gsub("[^%w_.-]", function(byte) return string.format("%%%02X", byte:byte()) end)
    local body = '{"content":"' .. string.rep("x", CONTENT_BYTES) .. '"}'
    local one = wrk.format("POST", "/api/rooms/" .. escaped .. "/messages", headers, body)
    requests = one:rep(tonumber(arguments[3]) or 1)
    -- Globals of a thread, which `done` asks for.
    answers, refusals, refusal = 0, 0, ""
end

function request()
    return requests
end

function response(status, headers, body)
    answers = answers + 1
    if status ~= 200 or not body:find('"offset":%d') then
        refusals, refusal = refusals + 1, status .. " " .. body
    end
end

function done(summary, latency, requests)
    local answers, refusals, refusal = 0, 0, ""
    for _, thread in ipairs(threads) do
        answers, refusals = answers + thread:get("answers"), refusals + thread:get("refusals")
        if thread:get("refusal") ~= "" then
            refusal = thread:get("refusal")
        end
    end
    local errors = summary.errors
    print(string.format("requests/s: %.0f", answers / (summary.duration / 1e6)))
    print(string.format("non-2xx: %d", refusals))
    if refusals > 0 then
        print("the last of them: " .. refusal)
    end
    print(string.format("socket errors: %d", errors.connect + errors.read + errors.write + errors.timeout))
end
