{{/* What the gateway learns from its pod and from Secrets. */}}

{{- define "shardgate.env" -}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- name: SHARDGATE_CLUSTER__URL
  value: http://$(POD_IP):51080
- name: SHARDGATE_KUBERNETES__NODE
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
{{- if eq .Values.cache.type "hostPath" }}
{{- /* gateways of one node share the folder, not what is in it */}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: SHARDGATE_CACHE__DIR
  value: /var/lib/shardgate/$(POD_NAME)/cache
- name: SHARDGATE_STATE__DIR
  value: /var/lib/shardgate/$(POD_NAME)/state
{{- end }}
- name: SHARDGATE_SERVE__TOKEN
  valueFrom: {secretKeyRef: {name: {{ include "shardgate.adminSecret" . }}, key: token}}
{{- with include "shardgate.metricsSecret" . }}
- name: SHARDGATE_AUTH__METRICS_TOKEN
  valueFrom: {secretKeyRef: {name: {{ . }}, key: token}}
{{- end }}
{{- with include "shardgate.databaseSecret" . }}
- name: SHARDGATE_STATE__DATABASE
  valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ $.Values.database.secretKey }}}}
{{- end }}
{{- with .Values.credentials.bucketsSecret }}
- name: SHARDGATE_BUCKETS
  valueFrom: {secretKeyRef: {name: {{ . }}, key: buckets.json}}
{{- end }}
{{- range .Values.credentials.env }}
- name: {{ .name }}
  valueFrom: {secretKeyRef: {name: {{ .secret }}, key: {{ .key }}}}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}
