{{/* Service of a component's metrics, named as in ceph-csi's chart; takes (list root component fullname). */}}
{{- define "csi-rbd.metrics.service" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $service := $component.httpMetrics.service -}}
{{- if and $component.httpMetrics.enabled $service.enabled -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ index . 2 }}-http-metrics
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "csi-rbd.labels" (list $root $component) | nindent 4 }}
  {{- $scrape := dict }}
  {{- if $root.Values.metrics.annotations }}
  {{- $scrape = dict "prometheus.io/scrape" "true" "prometheus.io/path" "/metrics" "prometheus.io/port" (include "csi-rbd.scalar" $service.servicePort) }}
  {{- end }}
  {{- with mergeOverwrite $scrape ($service.annotations | default dict) }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ $service.type }}
  {{- with $service.clusterIP }}
  clusterIP: {{ . | quote }}
  {{- end }}
  {{- with $service.externalIPs }}
  externalIPs: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $service.loadBalancerIP }}
  loadBalancerIP: {{ . }}
  {{- end }}
  {{- with $service.loadBalancerSourceRanges }}
  loadBalancerSourceRanges: {{- toYaml . | nindent 4 }}
  {{- end }}
  selector: {{- include "csi-rbd.selector" (list $root $component) | nindent 4 }}
  ports:
    - name: http-metrics
      port: {{ $service.servicePort }}
      targetPort: {{ $component.httpMetrics.containerPort }}
      protocol: TCP
{{- end -}}
{{- end -}}

{{/* ServiceMonitor of that Service; takes the same. */}}
{{- define "csi-rbd.metrics.serviceMonitor" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $monitor := $root.Values.metrics.serviceMonitor -}}
{{- $known := or $monitor.forceEnable ($root.Capabilities.APIVersions.Has "monitoring.coreos.com/v1/ServiceMonitor") -}}
{{- if and $monitor.enabled $known $component.httpMetrics.enabled $component.httpMetrics.service.enabled -}}
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata:
  name: {{ index . 2 }}
  namespace: {{ $monitor.namespace | default $root.Release.Namespace }}
  labels: {{- include "csi-rbd.labels" (list $root $component $monitor.labels) | nindent 4 }}
  {{- with $monitor.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  namespaceSelector:
    matchNames: [{{ $root.Release.Namespace }}]
  selector:
    matchLabels: {{- include "csi-rbd.selector" (list $root $component) | nindent 6 }}
  endpoints:
    - port: http-metrics
      path: /metrics
      {{- with $monitor.interval }}
      interval: {{ . }}
      {{- end }}
      {{- with $monitor.scrapeTimeout }}
      scrapeTimeout: {{ . }}
      {{- end }}
      {{- with $monitor.relabelings }}
      relabelings: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $monitor.metricRelabelings }}
      metricRelabelings: {{- toYaml . | nindent 8 }}
      {{- end }}
{{- end -}}
{{- end -}}

{{/* PodMonitor of ports of a component's pods; takes (list root component fullname ports). */}}
{{- define "csi-rbd.metrics.podMonitor" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $monitor := $component.podMonitor -}}
{{- if $monitor.enabled -}}
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata:
  name: {{ index . 2 }}
  namespace: {{ $monitor.namespace | default $root.Release.Namespace }}
  labels: {{- include "csi-rbd.labels" (list $root $component $monitor.labels) | nindent 4 }}
  {{- with $monitor.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  namespaceSelector:
    matchNames: [{{ $root.Release.Namespace }}]
  selector:
    matchLabels: {{- include "csi-rbd.selector" (list $root $component) | nindent 6 }}
  podMetricsEndpoints:
    {{- range index . 3 }}
    - port: {{ . }}
    {{- end }}
{{- end -}}
{{- end -}}
