{{- define "outrider.name" -}}
{{- .Values.name | default .Release.Name | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "outrider.selector" -}}
app.kubernetes.io/name: {{ include "outrider.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "outrider.labels" -}}
{{ include "outrider.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | regexFind "^[\\w.-]{0,62}[A-Za-z0-9]" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "outrider.adminSecret" -}}
{{- .Values.admin.secretName | default (printf "%s-admin" (include "outrider.name" .)) }}
{{- end }}

{{- define "outrider.terminationGracePeriod" -}}
{{- add .Values.drain.stopDelay .Values.drain.gracefulTimeout .Values.drain.margin }}
{{- end }}
