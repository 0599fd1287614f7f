package tokens

import (
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend/role"
)

// forwarded declares an operation that only the active node of the primary
// cluster may answer: one that writes, or that must not be answered from the
// lagging copy of a standby.
func forwarded(callback framework.OperationFunc, summary string, responses map[int][]framework.Response) *framework.PathOperation {
	return &framework.PathOperation{
		Callback:                    callback,
		Summary:                     summary,
		ForwardPerformanceStandby:   true,
		ForwardPerformanceSecondary: true,
		Responses:                   responses,
	}
}

// responds declares what an operation answers, for Vault's OpenAPI document
// and for tests, which hold every answer against it.
func responds(status int, fields map[string]*framework.FieldSchema) map[int][]framework.Response {
	return map[int][]framework.Response{status: {{Description: http.StatusText(status), Fields: fields}}}
}

// finds declares the answer of a path to what may not be there.
func finds(fields map[string]*framework.FieldSchema) map[int][]framework.Response {
	return with(responds(http.StatusOK, fields), http.StatusNotFound)
}

// changes declares the answer to a change: nothing, or warnings.
func changes() map[int][]framework.Response {
	return with(responds(http.StatusNoContent, nil), http.StatusOK)
}

// publishes declares the answer of a path whose body is no JSON object of Vault's.
func publishes(statuses ...int) map[int][]framework.Response {
	return with(responds(http.StatusOK, nil), append(statuses, http.StatusNotModified)...)
}

// with adds statuses whose answers have no fields.
func with(responses map[int][]framework.Response, statuses ...int) map[int][]framework.Response {
	for _, status := range statuses {
		responses[status] = []framework.Response{{Description: http.StatusText(status)}}
	}
	return responses
}

// field declares one field.
func field(t framework.FieldType, description string) *framework.FieldSchema {
	return &framework.FieldSchema{Type: t, Description: description}
}

// secretField declares a field that holds a token.
func secretField(description string) *framework.FieldSchema {
	return &framework.FieldSchema{
		Type:         framework.TypeString,
		Description:  description,
		DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}, // for Vault's UI
	}
}

// listFields declare the answer to a list.
func listFields(description string) map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{"keys": field(framework.TypeStringSlice, description)}
}

// tokenFields declare what an answer shows of a token, without the token itself;
// see tokenData.
func tokenFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"token_id":   field(framework.TypeString, "Public id of the token."),
		"token_type": field(framework.TypeString, "api_key, bearer or jwt."),
		"role":       field(framework.TypeString, "Role that issued it."),
		"scopes":     field(framework.TypeStringSlice, "Scopes, as a list."),
		"scope":      field(framework.TypeString, "Scopes, separated by spaces (RFC 6749, section 3.3)."),
		"audience":   field(framework.TypeStringSlice, "APIs that the token is for."),
		"issued_at":  field(framework.TypeString, "When it was issued (RFC 3339)."),
		"expires_at": field(framework.TypeString, "When it ends, unless renewed (RFC 3339)."),
		"metadata":   field(framework.TypeMap, "Metadata, if any."),
		"cnf":        field(framework.TypeMap, "Key that the bearer must prove to hold, if any."),
	}
}

// nameParameter reads the name of a role or key from the path.
func nameParameter(data *framework.FieldData) (string, error) {
	name := data.Get("name").(string)
	return name, role.ValidateName("name", name)
}

// seconds reads a duration field.
func seconds(data *framework.FieldData, name string) time.Duration {
	return time.Duration(data.Get(name).(int)) * time.Second
}

// optionalSeconds reads a duration field that may be left out: nil if it is.
func optionalSeconds(data *framework.FieldData, name string) *time.Duration {
	if _, ok := data.GetOk(name); !ok {
		return nil
	}
	d := seconds(data, name)
	return &d
}

// optional reads a field that may be left out: nil if it is.
func optional[V any](data *framework.FieldData, name string) *V {
	value, ok := data.GetOk(name)
	if !ok {
		return nil
	}
	v := value.(V)
	return &v
}
