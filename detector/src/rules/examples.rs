//! An example and a near miss for each built-in rule, both made here: no token stands whole in this
//! file. Tests of other crates include it too.

/// Rule, example, near miss. `{36a}` stands for 36 random characters of an alphabet: `a` letters and
/// digits, `L` letters, `l` small letters and digits, `U` capitals and digits, `d` digits, `h` hex,
/// `T` Base32, `B` Bech32, `b` Base64, `w` its URL-safe kind.
pub(crate) const EXAMPLES: &[(&str, &str, &str)] = &[
    ("github-pat", "ghp_{36a}", "ghp_{35a}"),
    ("github-oauth", "gho_{36a}", "gho_{30a}.{6a}"),
    ("github-app-token", "ghs_{36a}", "ght_{36a}"),
    ("github-refresh-token", "ghr_{76a}", "ghr-{76a}"),
    ("github-fine-grained-pat", "github_pat_{22a}_{59a}", "github_pat_{21a}_{59a}"),
    ("gitlab-pat", "glpat-{20w}", "glpat-{19w}!"),
    ("gitlab-token", "glcbt-{2h}_{20w}", "glabt-{20w}"),
    ("gitlab-rrt", "GR1348941{20w}", "GR1348942{20w}"),
    ("bitbucket-app-password", "ATBB{32a}", "ATBC{32a}"),
    ("atlassian-api-token", "ATATT3{186w}", "ATATT3{100w}"),
    ("aws-access-token", "AKIA{16T}", "AKIA{15T}"),
    ("aws-secret-access-key", "AWS_SECRET_ACCESS_KEY={40b}", "AWS_SECRET_ACCESS_KEY={38b}"),
    ("aws-bedrock-api-key", "ABSK{120b}", "ABSK{100b}"),
    ("gcp-api-key", "AIza{35w}", "AIza{36w}"),
    ("gcp-oauth-client-secret", "GOCSPX-{28w}", "GOCSPX-{27w}"),
    ("gcp-oauth-token", "ya29.a0{160w}", "ya29.a0{20w}"),
    ("gcp-service-account", "\"private_key_id\": \"{40h}\"", "\"private_key_id\": \"{39h}\""),
    ("azure-storage-key", "AccountKey={86b}==", "AccountKey={85b}=="),
    ("azure-shared-access-key", "SharedAccessKey={43b}=", "SharedAccessKey={42b}="),
    ("azure-ad-client-secret", "{3a}8Q~{34w}", "{3a}8Q~{20w}"),
    ("alibaba-access-key-id", "LTAI{20a}", "LTAI{12a}"),
    ("digitalocean-token", "dop_v1_{64h}", "dop_v1_{63h}"),
    ("heroku-api-key", "HRKU-AA{58w}", "HRKU-AA{20w}"),
    ("flyio-access-token", "fo1_{43w}", "fo1_{40w}"),
    ("netlify-access-token", "nfp_{36a}", "nfp_{35a}"),
    ("vercel-token", "vcp_{56a}", "vcp_{20a}"),
    ("cloudflare-api-token", "CLOUDFLARE_API_TOKEN={40w}", "CLOUDFLARE_API_TOKEN={30w}"),
    ("cloudflare-origin-ca-key", "v1.0-{24h}-{146h}", "v1.0-{24h}-{40h}"),
    ("scalingo-api-token", "tk-us-{48w}", "tk-us-{40w}"),
    ("openshift-user-token", "sha256~{43w}", "sha256~{42w}"),
    ("neon-api-key", "napi_{64l}", "napi_{60l}"),
    ("supabase-token", "sbp_{40h}", "sbp_{39h}"),
    ("planetscale-token", "pscale_tkn_{43w}", "pscale_tkn_{30w}!"),
    ("databricks-api-token", "dapi{32h}", "dapi{31h}"),
    ("render-api-key", "rnd_{32a}", "rnd_{20a}"),
    ("hashicorp-vault-token", "hvs.{95w}", "hvs.{20w}"),
    ("hashicorp-tf-api-token", "{14a}.atlasv1.{67w}", "{14a}.atlasv1.{50w}"),
    ("pulumi-api-token", "pul-{40h}", "pul-{39h}"),
    ("doppler-api-token", "dp.pt.{43a}", "dp.pt.{30a}"),
    ("tailscale-key", "tskey-auth-{14a}-{32a}", "tskey-auth-{14a}"),
    ("dynatrace-api-token", "dt0c01.{24T}.{64T}", "dt0c01.{24T}.{60T}"),
    ("datadog-key", "DD_API_KEY={32h}", "DD_API_KEY={30h}"),
    ("new-relic-key", "NRAK-{27U}", "NRAK-{26U}"),
    ("grafana-service-account-token", "glsa_{32a}_{8h}", "glsa_{32a}_{7h}"),
    ("grafana-cloud-api-token", "glc_{120b}", "glc_{20b}"),
    ("grafana-api-key", "eyJrIjoi{90b}", "eyJrIjoi{20b}"),
    ("sentry-token", "sntryu_{64h}", "sntryu_{63h}"),
    ("pagerduty-token", "Token token={20w}", "Token token={18w}"),
    ("postman-api-token", "PMAK-{24h}-{34h}", "PMAK-{24h}-{33h}"),
    ("circleci-token", "CCIPAT_{22a}_{40h}", "CCIPAT_{22a}_{39h}"),
    ("buildkite-token", "bkua_{40h}", "bkua_{39h}"),
    ("sonarqube-token", "squ_{40h}", "squ_{39h}"),
    ("harness-api-key", "pat.{22w}.{24h}.{20a}", "pat.{22w}.{24h}.{19a}"),
    ("infracost-api-token", "ico-{32a}", "ico-{31a}"),
    ("prefect-api-token", "pnu_{36a}", "pnu_{35a}"),
    ("npm-access-token", "npm_{36a}", "npm_{35a}"),
    ("pypi-upload-token", "pypi-AgEIcHlwaS5vcmc{120w}", "pypi-AgEXcHlwaS5vcmc{120w}"),
    ("crates-io-token", "cio{32a}", "cio{31a}"),
    ("rubygems-api-token", "rubygems_{48h}", "rubygems_{47h}"),
    ("nuget-api-key", "oy2{43l}", "oy2{42l}"),
    ("clojars-api-token", "CLOJARS_{60l}", "CLOJARS_{59l}"),
    ("docker-hub-token", "dckr_pat_{27w}", "dckr_pat_{25w}!"),
    ("anthropic-api-key", "sk-ant-api03-{93w}AA", "sk-ant-api03-{40w}"),
    ("openai-api-key", "sk-proj-{74w}T3BlbkFJ{74w}", "sk-proj-{30w}!"),
    ("openrouter-api-key", "sk-or-v1-{64h}", "sk-or-v1-{63h}"),
    ("deepseek-api-key", "sk-{32h}", "sk-{31h}"),
    ("huggingface-access-token", "hf_{34L}", "hf_{33L}"),
    ("groq-api-key", "gsk_{52a}", "gsk_{51a}"),
    ("cerebras-api-key", "csk-{48l}", "csk-{47l}"),
    ("replicate-api-token", "r8_{37a}", "r8_{36a}"),
    ("perplexity-api-key", "pplx-{48a}", "pplx-{47a}"),
    ("xai-api-key", "xai-{80a}", "xai-{79a}"),
    ("nvidia-api-key", "nvapi-{64w}", "nvapi-{50w}"),
    ("langsmith-api-key", "lsv2_pt_{32h}_{10h}", "lsv2_pt_{32h}_{9h}"),
    ("pinecone-api-key", "pcsk_{6a}_{63a}", "pcsk_{6a}_{40a}"),
    ("tavily-api-key", "tvly-{32a}", "tvly-{31a}"),
    ("e2b-api-key", "e2b_{40h}", "e2b_{39h}"),
    ("slack-token", "xoxb-{12d}-{13d}-{24a}", "xoxz-{12d}-{13d}-{24a}"),
    ("slack-app-token", "xapp-1-A{10U}-{13d}-{64h}", "xapp-1-A{10U}-{13d}-{20h}"),
    (
        "slack-webhook-url",
        "https://hooks.slack.com/services/T{10U}/B{10U}/{24a}",
        "https://hooks.slack.com/services/T{10U}/B{10U}",
    ),
    ("discord-bot-token", "Bot MT{24w}.{6w}.{38w}", "Bot MT{24w}.{5w}.{38w}"),
    (
        "discord-webhook-url",
        "https://discord.com/api/webhooks/{18d}/{68w}",
        "https://discord.com/api/webhooks/{18d}/{30w}",
    ),
    ("telegram-bot-api-token", "{10d}:AA{33w}", "{10d}:AA{32w}"),
    ("twilio-api-key", "SK{32h}", "SK{31h}"),
    ("sendgrid-api-token", "SG.{22w}.{43w}", "SG.{21w}.{43w}"),
    ("mailgun-private-api-token", "key-{32h}", "key-{31h}"),
    ("mailchimp-api-key", "MAILCHIMP_API_KEY={32h}-us14", "MAILCHIMP_API_KEY={32h}-eu14"),
    ("brevo-api-key", "xkeysib-{64h}-{16a}", "xkeysib-{64h}-{15a}"),
    ("resend-api-key", "re_{8a}_{24a}", "re_{8a}_{23a}"),
    ("stripe-access-token", "sk_live_{24a}", "sk_live_{10a}"),
    ("webhook-signing-secret", "whsec_{32a}", "whsec_{20a}"),
    ("square-access-token", "sq0atp-{22w}", "sq0atp-{20w}!"),
    (
        "braintree-access-token",
        "access_token$production${16l}${32h}",
        "access_token$production${16l}${31h}",
    ),
    ("shopify-token", "shpat_{32h}", "shpat_{31h}"),
    ("shippo-api-token", "shippo_live_{40h}", "shippo_live_{39h}"),
    ("easypost-api-token", "EZAK{54a}", "EZAK{53a}"),
    ("linear-api-key", "lin_api_{40a}", "lin_api_{39a}"),
    ("notion-api-token", "ntn_{11d}{35a}", "ntn_{11d}{20a}"),
    ("figma-token", "figd_{40w}", "figd_{30w}"),
    ("airtable-personal-access-token", "pat{14a}.{64h}", "pat{13a}.{64h}"),
    (
        "hubspot-private-app-token",
        "pat-na1-{8h}-{4h}-{4h}-{4h}-{12h}",
        "pat-na1-{8h}-{4h}-{4h}-{12h}",
    ),
    ("dropbox-token", "sl.u.{160w}", "sl.u.{60w}"),
    ("okta-access-token", "SSWS 00{40w}", "SSWS 00{39w}"),
    ("contentful-token", "CFPAT-{43w}", "CFPAT-{42w}"),
    ("typeform-api-token", "tfp_{59w}", "tfp_{50w}!"),
    ("readme-api-token", "rdme_{70l}", "rdme_{69l}"),
    ("adafruit-api-key", "aio_{28a}", "aio_{27a}"),
    ("frameio-api-token", "fio-u-{64w}", "fio-u-{60w}"),
    ("mapbox-secret-token", "sk.eyJ{80w}.{22w}", "pk.eyJ{80w}.{22w}"),
    (
        "private-key",
        "-----BEGIN OPENSSH PRIVATE KEY-----\n{64b}\n{64b}\n",
        "-----BEGIN PUBLIC KEY-----\n{64b}\n{64b}\n",
    ),
    (
        "putty-private-key",
        "PuTTY-User-Key-File-2: ssh-rsa\nEncryption: none\nPublic-Lines: 1\n{64b}\nPrivate-Lines: 8\n{64b}",
        "PuTTY-User-Key-File-2: ssh-rsa\nPublic-Lines: 1\n{64b}\n",
    ),
    ("age-secret-key", "AGE-SECRET-KEY-1{58B}", "AGE-SECRET-KEY-1{57B}"),
    ("1password-service-account-token", "ops_eyJ{260b}", "ops_eyJ{100b}"),
    ("1password-secret-key", "A3-{6U}-{6U}-{5U}-{5U}-{5U}-{5U}", "A3-{6U}-{6U}-{5U}-{5U}-{5U}"),
    ("jwt", "eyJ{30w}.eyJ{60w}.{43w}", "eyJ{30w}.{60w}"),
    (
        "basic-auth-url",
        "https://deploy:{16a}@example.com/x",
        "https://deploy:${DEPLOY_PASSWORD}@example.com/x",
    ),
    ("generic-api-key", "api_key = \"{32a}\"", "api_key = \"get_the_api_key_from_here\""),
];

fn alphabet(name: char) -> &'static str {
    match name {
        'a' => "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
        'L' => "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
        'l' => "abcdefghijklmnopqrstuvwxyz0123456789",
        'U' => "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
        'd' => "0123456789",
        'h' => "0123456789abcdef",
        'T' => "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567",
        'B' => "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L",
        'b' => "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
        'w' => "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_",
        _ => unreachable!("no alphabet {name}"),
    }
}

/// Fills a template in. The last character of each part is a letter or a digit, so that `\b` holds.
pub(crate) fn fill(template: &str, seed: u64) -> String {
    let mut state = seed;
    let mut random = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (part, after) = after.split_once('}').unwrap();
        out.push_str(before);
        rest = after;
        let (count, name) = part.split_at(part.len() - 1);
        let Ok(count) = count.parse::<usize>() else {
            out.push_str(&format!("{{{part}}}"));
            continue;
        };
        let letters: Vec<char> = alphabet(name.chars().next().unwrap()).chars().collect();
        for left in (0..count).rev() {
            let among = if left == 0 { letters.len().min(62) } else { letters.len() };
            out.push(letters[random() % among]);
        }
    }
    out + rest
}
