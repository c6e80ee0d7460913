{{/* The gateway's settings: what the chart knows, and over it `config`. */}}

{{- define "shardgate.config" -}}
{{- $name := include "shardgate.fullname" . -}}
{{- $runtimes := list -}}
{{- range .Values.images.runtimes -}}
{{- $runtimes = append $runtimes (dict "image" (include "shardgate.image" (list $ .name)) "python" .python "provides" .provides) -}}
{{- end -}}
{{- $settings := dict
  "serve" (dict
    "host" "0.0.0.0"
    "port" 51080
    "workers" .Values.workers
    "linger_seconds" 5
    "drain_seconds" .Values.drainSeconds
    "public_url" (printf "http://%s.%s.svc:%d" $name .Release.Namespace (int .Values.service.port)))
  "cache" (dict
    "dir" "/var/lib/shardgate/cache"
    "capacity_bytes" (mulf 0.85 (include "shardgate.bytes" .Values.cache.size | float64) | int64))
  "state" (dict "dir" "/var/lib/shardgate/state")
  "auth" (dict "signing_key_file" "/etc/shardgate/signing-key/keys")
  "cluster" (dict "membership" "kubernetes" "service" (printf "%s-peers" $name))
  "etl" (dict "runner" "kubernetes")
  "kubernetes" (dict
    "instance" (include "shardgate.instance" .)
    "owner" $name
    "gateway_url" (printf "http://%s.%s.svc:%d" $name .Release.Namespace (int .Values.service.port))
    "images" $runtimes
    "pull_policy" .Values.images.pullPolicy
    "pull_secrets" .Values.images.pullSecrets
    "service_account" (printf "%s-etl" $name))
  "buckets" .Values.buckets
-}}
{{- if .Values.auth.tokensSecret -}}
{{- $_ := set $settings.auth "tokens_file" "/etc/shardgate/tokens/tokens.toml" -}}
{{- end -}}
{{- $toml := mergeOverwrite $settings (deepCopy .Values.config) | toToml -}}
{{- /* YAML's numbers come as floats */ -}}
{{- regexReplaceAll "(?m) = ([0-9]+)[.]0$" $toml " = ${1}" -}}
{{- end -}}
