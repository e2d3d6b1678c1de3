{{/*
Parts of pods and containers. Each is given what it needs as a list; none writes its own key, so that the templates that
use them show the shape of the object.
*/}}

{{/* An image; takes (list root image), with repository, tag and digest. */}}
{{- define "csi-rbd.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $repository := $image.repository -}}
{{- with ($root.Values.global).imageRegistry -}}
{{- $parts := splitList "/" $repository -}}
{{- $host := first $parts -}}
{{- $named := and (gt (len $parts) 1) (or (contains "." $host) (contains ":" $host) (eq $host "localhost")) -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) (join "/" (ternary (rest $parts) $parts $named)) -}}
{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (toString $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The values of the driver's image. A file of ceph-csi names ceph-csi's image, which does not know our flags. */}}
{{- define "csi-rbd.driverImage" -}}
{{- $other := (.Values.nodeplugin.plugin).image | default dict -}}
{{- $image := .Values.image -}}
{{- if and $other.repository (not (regexMatch "(^|/)cephcsi$" $other.repository)) -}}{{- $image = $other -}}{{- end -}}
{{- $tag := $image.tag | default (printf "%s-ceph%s" .Chart.AppVersion (toString .Values.image.ceph)) -}}
{{- toYaml (merge (dict "tag" $tag "pullPolicy" ($other.pullPolicy | default .Values.image.pullPolicy)) $image) -}}
{{- end -}}

{{/* A value of a flag: numbers as they are written, not as 1e+06. */}}
{{- define "csi-rbd.scalar" -}}{{- kindIs "string" . | ternary . (toJson .) -}}{{- end -}}

{{/* Arguments that values give a container; takes (list args extraArgs). */}}
{{- define "csi-rbd.moreArgs" -}}
{{- range $name, $value := omit (index . 0 | default dict) "httpEndpointPort" "enableVolumeGroupSnapshots" }}
- {{ printf "--%s=%s" (contains "-" $name | ternary $name (kebabcase $name)) (include "csi-rbd.scalar" $value) | quote }}
{{- end }}
{{- range index . 1 }}
- {{ hasPrefix "-" . | ternary . (printf "--%s" .) | quote }}
{{- end }}
{{- end -}}

{{/*
Of the flags that values give an attacher, those that the driver's own has (list args extraArgs true), or those that it
has not (list args extraArgs false).
*/}}
{{- define "csi-rbd.attacherArgs" -}}
{{- $own := index . 2 -}}
{{- range include "csi-rbd.moreArgs" . | fromYamlArray }}
{{- if eq $own (hasPrefix "--leader-election" .) }}
- {{ . | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* What every container may have beside its arguments; takes (list values defaultSecurityContext defaultResources). */}}
{{- define "csi-rbd.container" -}}
{{- $values := index . 0 -}}
{{- with $values.extraEnvFrom }}
envFrom: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with mergeOverwrite (deepCopy (index . 1 | default dict)) ($values.securityContext | default dict) }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.resources | default (index . 2) }}
resources: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What both pods have; takes (list root podValues). */}}
{{- define "csi-rbd.pod" -}}
{{- $root := index . 0 -}}
{{- $pod := index . 1 -}}
{{- with $pod.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
terminationGracePeriodSeconds: {{ $pod.terminationGracePeriodSeconds }}
{{- with $pod.dnsConfig }}
dnsConfig: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $pod.hostAliases }}
hostAliases: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with concat ($pod.imagePullSecrets | default list) (($root.Values.global).imagePullSecrets | default list) | uniq }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $pod.podSecurityContext }}
{{- /* Who asks for root need not know that the default forbids it. */}}
{{- $asRoot := and (hasKey . "runAsUser") (eq (toString .runAsUser) "0") }}
securityContext: {{- toYaml (ternary (omit . "runAsNonRoot") . $asRoot) | nindent 2 }}
{{- end }}
{{- with $pod.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $pod.initContainers }}
initContainers: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Flags and environment of the driver that node and controller have in common; takes (list root pod socket). */}}
{{- define "csi-rbd.driver.args" -}}
{{- $root := index . 0 -}}
{{- $pod := index . 1 -}}
- --type=rbd
- --drivername={{ $root.Values.driverName }}
- --nodeid=$(NODE_ID)
- --endpoint=unix:///csi/{{ index . 2 }}
- --v={{ $root.Values.logLevel }}
- --logslowopinterval={{ $root.Values.logSlowOperationInterval }}
{{- with $root.Values.instanceID }}
- --instanceid={{ . }}
{{- end }}
{{- if $root.Values.enableFencing }}
- --enable-fencing=true
{{- end }}
- --grace-period={{ max 1 (sub (int $pod.terminationGracePeriodSeconds) 5) }}s
{{- if $pod.httpMetrics.enabled }}
- --enableprofiling=true
- --metricsport={{ $pod.httpMetrics.containerPort }}
- --metricspath=/metrics
{{- end }}
{{- end -}}

{{/* Charts of ceph-csi until 2023 had labels as an example, which counted with `enabled` only. */}}
{{- define "csi-rbd.domainLabels" -}}
{{- if or (not (hasKey .Values.topology "enabled")) .Values.topology.enabled -}}
{{- join "," .Values.topology.domainLabels -}}
{{- end -}}
{{- end -}}

{{- define "csi-rbd.driver.env" -}}
- name: NODE_ID
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
- name: POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- end -}}

{{/* How long a container may take to start: five minutes. */}}
{{- define "csi-rbd.startPatience" -}}
periodSeconds: 2
timeoutSeconds: 5
failureThreshold: 150
{{- end -}}

{{/* What each probe of the driver asks; takes the host. */}}
{{- define "csi-rbd.healthz" -}}
httpGet:
  {{- with . }}
  host: {{ . }}
  {{- end }}
  path: /healthz
  port: healthz
{{- end -}}

{{/*
Ports and probes; takes (list pod host), with the address of `--http-endpoint`, or "" for the pod's own. The probe asks
the driver's loop, which no volume can block.
*/}}
{{- define "csi-rbd.driver.ports" -}}
{{- $host := index . 1 -}}
{{- with index . 0 -}}
{{- if or .healthPort .httpMetrics.enabled }}
ports:
  {{- if .healthPort }}
  - name: healthz
    containerPort: {{ .healthPort }}
    protocol: TCP
  {{- end }}
  {{- if .httpMetrics.enabled }}
  - name: metrics
    containerPort: {{ .httpMetrics.containerPort }}
    protocol: TCP
  {{- end }}
{{- end }}
{{- if .healthPort }}
# five minutes to start, on a node that is busy with everything else that starts
startupProbe:
  {{- include "csi-rbd.healthz" $host | nindent 2 }}
  {{- include "csi-rbd.startPatience" . | nindent 2 }}
livenessProbe:
  {{- include "csi-rbd.healthz" $host | nindent 2 }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 5
readinessProbe:
  {{- include "csi-rbd.healthz" $host | nindent 2 }}
  periodSeconds: 10
  timeoutSeconds: 5
{{- end }}
{{- end -}}
{{- end -}}

{{/* Volumes of the configuration, in both pods. */}}
{{- define "csi-rbd.config.volumes" -}}
- name: ceph-config
  configMap:
    name: {{ .Values.cephConfConfigMapName }}
- name: ceph-csi-config
  {{- if .Values.configMapKey }}
  projected:
    sources:
      - configMap:
          name: {{ .Values.configMapName }}
          items:
            - key: {{ .Values.configMapKey }}
              path: config.json
      - configMap:
          name: {{ .Values.configMapName }}
          optional: true
          items:
            - key: cluster-mapping.json
              path: cluster-mapping.json
  {{- else }}
  configMap:
    name: {{ .Values.configMapName }}
  {{- end }}
- name: ceph-csi-encryption-kms-config
  configMap:
    name: {{ .Values.kmsConfigMapName }}
    optional: true
# with which a role of AWS is taken on
- name: oidc-token
  projected:
    sources:
      - serviceAccountToken:
          path: oidc-token
          expirationSeconds: 3600
          audience: ceph-csi-kms
{{- end -}}

{{- define "csi-rbd.config.mounts" -}}
- name: ceph-config
  mountPath: /etc/ceph
  readOnly: true
- name: ceph-csi-config
  mountPath: /etc/ceph-csi-config
  readOnly: true
- name: ceph-csi-encryption-kms-config
  mountPath: /etc/ceph-csi-encryption-kms-config
  readOnly: true
- name: oidc-token
  mountPath: /run/secrets/tokens
  readOnly: true
{{- end -}}

{{/* Volume of an entry of clusterCredentials: a clusterID may hold what a name of a volume must not. */}}
{{- define "csi-rbd.credentials.volume" -}}
{{- printf "credentials-%s" (sha256sum .clusterID | trunc 12) -}}
{{- end -}}

{{/* "true" where volumes are mapped with rbd-nbd. */}}
{{- define "csi-rbd.rbdNbd" -}}
{{- $class := .Values.storageClass | default dict -}}
{{- $asked := or (eq (toString ($class.mounter | default "")) "rbd-nbd") (eq (toString $class.tryOtherMounters) "true") -}}
{{- kindIs "invalid" .Values.nodeplugin.rbdNbd | ternary $asked (eq (toString .Values.nodeplugin.rbdNbd) "true") -}}
{{- end -}}
