package tokens

import (
	"context"
	"maps"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/vault-tokens/vault-plugin-secrets-tokens/backend"
)

func tidyFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"state":   field(framework.TypeString, "idle, running or cancelled."),
		"dry_run": field(framework.TypeBool, "Whether what would be removed is counted, and nothing removed."),
	}
}

func tidyStatusFields() map[string]*framework.FieldSchema {
	fields := tidyFields()
	maps.Copy(fields, map[string]*framework.FieldSchema{
		"started_at":                field(framework.TypeString, "When the pass over all records began that is under way, or was the last (RFC 3339)."),
		"finished_at":               field(framework.TypeString, "When it ended, if it has (RFC 3339)."),
		"position":                  field(framework.TypeFloat, "How much of it is done, about: 0 to 1."),
		"looked_at":                 field(framework.TypeInt, "Records that it looked at."),
		"removed":                   field(framework.TypeInt, "Records among them of tokens that had expired a day before."),
		"ended":                     field(framework.TypeInt, "Records among them of tokens that a kill switch had revoked."),
		"left":                      field(framework.TypeInt, "Records among them that stay."),
		"failed":                    field(framework.TypeInt, "What could not be read or removed, and is looked at again by the next pass."),
		"slots":                     field(framework.TypeInt, "Places in max_tokens that had no token, and were freed."),
		"lists":                     field(framework.TypeInt, "Status lists that were removed since it began, by this process."),
		"revocations":               field(framework.TypeInt, "Revocations in status lists that were removed since it began, by this process."),
		"cutoffs":                   field(framework.TypeInt, "Cut-offs of kill switches that were removed since it began, by this process."),
		"last_complete_started_at":  field(framework.TypeString, "When the last pass began that looked at all records (RFC 3339)."),
		"last_complete_finished_at": field(framework.TypeString, "When it ended (RFC 3339)."),
	})
	return fields
}

func (b *tokensBackend) pathTidy() []*framework.Path {
	return []*framework.Path{
		{
			Pattern: "tidy",
			Fields: map[string]*framework.FieldSchema{
				"dry_run": field(framework.TypeBool, "Count what would be removed, and remove nothing. Default false."),
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: forwarded(b.pathTidyWrite, "Begin a pass over all records in the background.", responds(http.StatusOK, tidyFields())),
			},
			HelpSynopsis: "Remove what expired and revoked tokens leave, now.",
			HelpDescription: `
A pass over all records begins by itself every twelve hours, and after each kill
switch. This begins one now, in the background. A pass that is under way goes on,
and is followed by this one. If the process ends, the next one goes on where it
was.`,
		},
		{
			Pattern: "tidy/status",
			Operations: map[logical.Operation]framework.OperationHandler{
				// The node that tidies knows.
				logical.ReadOperation: forwarded(b.pathTidyStatus, "Read how tidying stands.", responds(http.StatusOK, tidyStatusFields())),
			},
			HelpSynopsis: "Read how tidying stands.",
			HelpDescription: `
The figures are of the pass that is under way, or of the last one. They are
stored every few seconds, so that they survive a restart.`,
		},
		{
			Pattern: "tidy/cancel",
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: forwarded(b.pathTidyCancel, "End the pass that is under way.", changes()),
			},
			HelpSynopsis: "End the pass or dry run that is under way.",
			HelpDescription: `
What was removed stays removed. Tokens that a kill switch has revoked stay
refused by introspection; those that are tracked and that the pass had not come
to are not marked in their status lists until the next one, which begins twelve
hours after this one did, with the next kill switch, or with a write to tidy.`,
		},
	}
}

func (b *tokensBackend) pathTidyWrite(_ context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	dryRun := data.Get("dry_run").(bool)
	if !dryRun {
		b.engine.StartTidy()
	} else if err := b.engine.StartDryRun(); err != nil {
		return nil, err
	}
	b.Logger().Info("tidying asked for", "dry_run", dryRun)
	return &logical.Response{
		Data:     map[string]any{"state": string(backend.TidyRunning), "dry_run": dryRun},
		Warnings: []string{"this is done in the background; tidy/status says how it stands, and tidy/cancel ends it"},
	}, nil
}

func (b *tokensBackend) pathTidyStatus(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	status, err := b.engine.TidyStatus(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	data := map[string]any{
		"state":       string(status.State),
		"dry_run":     false,
		"lists":       status.Removed.Lists,
		"revocations": status.Removed.Revocations,
		"cutoffs":     status.Removed.Cutoffs,
	}
	if p := status.Pass; p != nil {
		data["dry_run"] = p.DryRun
		data["started_at"] = rfc3339(p.StartedAt)
		if !p.FinishedAt.IsZero() {
			data["finished_at"] = rfc3339(p.FinishedAt)
		}
		data["position"] = p.Position()
		data["looked_at"] = p.Looked
		data["removed"] = p.Removed
		data["ended"] = p.Ended
		data["left"] = p.Left
		data["failed"] = p.Failed
		data["slots"] = p.Slots
	}
	if p := status.Complete; p != nil {
		data["last_complete_started_at"] = rfc3339(p.StartedAt)
		data["last_complete_finished_at"] = rfc3339(p.FinishedAt)
	}
	return &logical.Response{Data: data}, nil
}

func (b *tokensBackend) pathTidyCancel(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	cancelled, err := b.engine.CancelTidy(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	if !cancelled {
		return &logical.Response{Warnings: []string{"nothing was under way, so nothing was cancelled"}}, nil
	}
	b.Logger().Info("tidying cancelled")
	return nil, nil
}
